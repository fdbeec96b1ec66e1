"""Matrix products in SCALE-Sim 3, by its own Python: jobs as JSON on stdin, results on stdout.

A job is {"m", "n", "k", "rows", "cols", "dataflow"}; memory is no limit (its mode CALC). A result
is {"cycles", "seconds"}: cycles counted from 1 (it counts from 0), seconds of the simulation alone.
Started by benchmarks/peers.py; needs nothing of this project.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
import time
from pathlib import Path

CONFIG = """\
[general]
run_name = run
[run_presets]
InterfaceBandwidth: CALC
UseRamulatorTrace: False
[architecture_presets]
ArrayHeight: {rows}
ArrayWidth: {cols}
IfmapSramSzkB: 65536
FilterSramSzkB: 65536
OfmapSramSzkB: 65536
IfmapOffset: 0
FilterOffset: 10000000
OfmapOffset: 20000000
Dataflow: {dataflow}
ReadRequestBuffer: 64
WriteRequestBuffer: 64
[layout]
IfmapCustomLayout: False
FilterCustomLayout: False
IfmapSRAMBankBandwidth: 10
IfmapSRAMBankNum: 10
IfmapSRAMBankPort: 2
FilterSRAMBankBandwidth: 10
FilterSRAMBankNum: 10
FilterSRAMBankPort: 2
[sparsity]
SparsitySupport: false
"""


def run(job: dict[str, object]) -> dict[str, float]:
    from scalesim.scale_sim import scalesim

    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        folder = Path(name)
        (folder / "run.cfg").write_text(CONFIG.format(**job))
        (folder / "product.csv").write_text("Layer,M,N,K,\nproduct,{m},{n},{k},\n".format(**job))
        (folder / "layout.csv").write_text("Layer,\n")
        begin = time.perf_counter()
        simulator = scalesim(
            save_disk_space=True, verbose=False, config=str(folder / "run.cfg"),
            topology=str(folder / "product.csv"), layout=str(folder / "layout.csv"),
            input_type_gemm=True,
        )  # fmt: skip
        simulator.run_scale(top_path=name)
        seconds = time.perf_counter() - begin
        (layer,) = simulator.runner.single_layer_sim_object_list
        return {"cycles": layer.total_cycles + 1, "seconds": seconds}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
