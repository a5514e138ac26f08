"""A deployed model beside its reference, layer by layer."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import numpy as np, onnx
from adadm.calibration.certification.layer_errors import LayerErrors
from adadm.calibration.certification.layer_graph import *
from adadm.calibration.certification.layer_units import *
from adadm.calibration.certification.running import feed_of
from adadm.runtime.images import Batch

def proto(reference, candidate, feeds):
    R,C=LayerGraph(reference),LayerGraph(candidate)
    U=units(R,C); kr,kc={},{}
    L=[]
    for n,u in U.items():
        k,v=R.layers[n]; w=C.layers[n][1]
        L.append((n,k,u,R.piece(v,kr),C.piece(w,kc),[LayerErrors() for _ in range(3)],[0.0]))
        kr[v]=n; kc[w]=n
    for lr in feeds:
        rv=dict(feed_of(R.input,lr,R.metadata)); fc=feed_of(C.input,lr,C.metadata); cv=dict(fc); h=lr.shape[2]
        for n,k,u,rp,cp,E,use in L:
            rv[n],_=rp.run(rv)
            cv[n],q=cp.run(cv)
            if q is not None: use[0]=max(use[0],float(np.abs(q).max())/127/cp.scale)
            iso,q=cp.run({**fc,**{s:U[s].to_candidate(rv[s]) for s in cp.sources if s in U}})
            ok=np.broadcast_to(np.isfinite(u.scale),rv[n].shape[1])
            E[0].add(rv[n][:,ok],u.to_reference(cv[n])[:,ok],h)
            E[1].add(rv[n][:,ok],u.to_reference(iso)[:,ok],h)
            if q is not None: E[2].add(rv[n][:,ok],u.to_reference(cp.run_unrounded(q))[:,ok],h)
    return L,[n for n in R.layers if n not in U]
