"""The registered model: a teacher and its sampler behind MLflow's ``predict``.

    model = mlflow.pyfunc.load_model("models:/jointsampler@newest")
    model.predict(pandas.DataFrame({"prompt": ["def main("]}), params={"k": 4})

MLflow runs this file when it loads the model ("models from code").
"""

from __future__ import annotations

import mlflow
from mlflow.pyfunc import PythonModel

from jointsampler import JointSampler, generate, load_teacher
from jointsampler.decoding.methods import get_method

DEFAULTS = {
    "method": "joint",
    "k": 4,
    "max_new_tokens": 32,
    "temperature": 1.0,
    "top_p": 1.0,
    "seed": 0,
}


class ServedSampler(PythonModel):
    def load_context(self, context) -> None:
        self.teacher = load_teacher(**context.model_config["teacher"])
        self.sampler = JointSampler.from_pretrained(context.artifacts["sampler"])
        self.sampler.beside(self.teacher)

    def predict(self, context, model_input, params=None) -> list[str]:
        """One text per row of ``model_input["prompt"]``; params as in ``generate``."""
        prompts = [str(prompt) for prompt in model_input["prompt"]]
        settings = {"stop_at_end": bool(self.teacher.end_ids), **DEFAULTS, **(params or {})}
        # "refresh" brings its own update; every other method may use the sampler.
        refresh = get_method(settings["method"]).update == "refresh"
        update = None if refresh else self.sampler
        return generate(self.teacher, update, prompts=prompts, **settings).texts


mlflow.models.set_model(ServedSampler())
