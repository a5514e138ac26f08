"""Run a TensorRT plan of an export with `tensorrt`, `cuda-bindings` and `numpy` alone."""

import numpy as np
import tensorrt as trt
from cuda.bindings import runtime as cuda

lr = np.zeros((1, 3, 270, 480), np.float32)  # RGB, 0..255
with open("edsr_x2.plan", "rb") as plan:
    engine = trt.Runtime(trt.Logger()).deserialize_cuda_engine(plan.read())
context = engine.create_execution_context()
context.set_input_shape("lr", lr.shape)
sr = np.empty(context.get_tensor_shape("sr")[:], np.float32)  # (1, 3, 540, 960), not clamped
(_, lr_gpu), (_, sr_gpu) = cuda.cudaMalloc(lr.nbytes), cuda.cudaMalloc(sr.nbytes)
context.set_tensor_address("lr", int(lr_gpu))
context.set_tensor_address("sr", int(sr_gpu))
cuda.cudaMemcpy(lr_gpu, lr.ctypes.data, lr.nbytes, cuda.cudaMemcpyKind.cudaMemcpyHostToDevice)
context.execute_async_v3(0)
cuda.cudaMemcpy(sr.ctypes.data, sr_gpu, sr.nbytes, cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost)
