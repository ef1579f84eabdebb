"""`import r2tuning` alone registers the model with transformers, whichever of the two is imported first."""

import json
import os

import pytest
from fresh_python import run_fresh


CODE = {
    "before": "import r2tuning\nfrom transformers import AutoModel, AutoProcessor, pipeline\n",
    "after": "from transformers import AutoModel, AutoProcessor, pipeline\nimport r2tuning\n",
}
LOAD = """
import json, sys
folder = sys.argv[1]
model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
grounder = pipeline("video-grounding", model=folder)
answer = grounder(folder + "/sample.mp4", query="a red circle")
modules = [type(each).__module__ for each in (model, processor, grounder)]
print(json.dumps({"modules": modules, "moments": len(answer["moments"])}))
"""


@pytest.mark.parametrize("order", CODE)
def test_a_checkpoint_loads_without_trust_remote_code(order, checkpoint, tmp_path):
    result = run_fresh(["-c", CODE[order] + LOAD, checkpoint], {**os.environ, "HF_HUB_OFFLINE": "1"}, tmp_path)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert all(module.startswith("modeling_r2tuning.") for module in found["modules"])
    assert found["moments"] > 0
