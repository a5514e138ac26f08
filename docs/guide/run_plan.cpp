// Upscale one grey picture with a TensorRT plan of a float32 export: run_plan edsr_x2.plan

#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <vector>

#include "adadm_tensors.h"

namespace {

class Logger : public nvinfer1::ILogger {
    void log(Severity severity, const char* text) noexcept override {
        if (severity <= Severity::kWARNING) std::fprintf(stderr, "%s\n", text);
    }
};

bool run(const char* path) {
    constexpr int kHeight = 270, kWidth = 480;
    constexpr float kRgbRange = 255;

    std::ifstream file(path, std::ios::binary);
    const std::vector<char> plan((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    Logger logger;
    std::unique_ptr<nvinfer1::IRuntime> runtime(nvinfer1::createInferRuntime(logger));
    std::unique_ptr<nvinfer1::ICudaEngine> engine(runtime->deserializeCudaEngine(plan.data(), plan.size()));
    if (!engine) return false;  // another TensorRT or GPU than the one that built it
    std::unique_ptr<nvinfer1::IExecutionContext> context(engine->createExecutionContext());
    if (!context || !context->setInputShape(adadm::kLr, nvinfer1::Dims4{1, 3, kHeight, kWidth})) return false;
    const nvinfer1::Dims shape = context->getTensorShape(adadm::kSr);  // (1, 3, H, W), upscale times as large
    const std::size_t height = shape.d[2], width = shape.d[3];

    const std::vector<std::uint8_t> picture(3 * kHeight * kWidth, 128);
    std::vector<float> lr(3 * kHeight * kWidth), sr(3 * height * width);
    adadm::fill_lr(picture.data(), kHeight, kWidth, 3 * kWidth, kRgbRange, lr.data());

    void *lr_gpu = nullptr, *sr_gpu = nullptr;
    cudaStream_t stream = nullptr;
    bool done = cudaMalloc(&lr_gpu, lr.size() * sizeof(float)) == cudaSuccess &&
                cudaMalloc(&sr_gpu, sr.size() * sizeof(float)) == cudaSuccess &&
                cudaStreamCreate(&stream) == cudaSuccess &&  //
                context->setTensorAddress(adadm::kLr, lr_gpu) && context->setTensorAddress(adadm::kSr, sr_gpu);
    done = done &&
           cudaMemcpyAsync(lr_gpu, lr.data(), lr.size() * sizeof(float), cudaMemcpyHostToDevice, stream) ==
               cudaSuccess &&
           context->enqueueV3(stream) &&
           cudaMemcpyAsync(sr.data(), sr_gpu, sr.size() * sizeof(float), cudaMemcpyDeviceToHost, stream) ==
               cudaSuccess &&
           cudaStreamSynchronize(stream) == cudaSuccess;
    if (stream) cudaStreamDestroy(stream);
    cudaFree(sr_gpu);
    cudaFree(lr_gpu);
    if (!done) return false;

    std::vector<std::uint8_t> larger(3 * height * width);
    adadm::read_sr(sr.data(), height, width, 3 * width, kRgbRange, larger.data());
    std::printf("%zux%zu, first pixel %d\n", width, height, larger[0]);
    return true;
}

}  // namespace

int main(int argc, char** argv) { return argc == 2 && run(argv[1]) ? 0 : 1; }
