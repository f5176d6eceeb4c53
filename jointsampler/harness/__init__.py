"""lm-evaluation-harness: its model ``jointsampler``, and our tasks in its form.

Importing this package registers the model and puts the programs of the harness's
code tasks into our sandbox (``code_eval.py``). The harness (0.4.13) looks for no
plug-ins, so ``jointsampler lm-eval`` (``command.py``) imports it and then hands over
to the harness. The harness also imports it by itself when it is given one of our
task files, because they name functions of ``documents.py``. Nothing else in the
library imports this package or the harness.
"""

from ..errors import UserError

try:
    import lm_eval.models  # noqa: F401  # the harness fills its registry only while it is empty
    from lm_eval.api.registry import model_registry

    from . import code_eval
except ModuleNotFoundError:
    raise UserError(
        "lm-evaluation-harness is not installed: pip install 'jointsampler[lm-eval]'."
    ) from None

NAME = "jointsampler"

if NAME not in model_registry:
    model_registry.register(NAME, target="jointsampler.harness.model:JointSamplerLM")
code_eval.install()
