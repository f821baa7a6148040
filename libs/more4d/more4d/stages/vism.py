"""Trains 4D-ViSM on renders of TrajScene from original and novel cameras (paper section 4.3)."""

from more4d.models.bundle import Models
from more4d.models.lora import LoRASettings
from more4d.models.work import training_flops
from more4d.settings import Section
from more4d.stages.base import Context, Stage
from more4d.stages.validating import view_validation
from more4d.training.adapters import make_trainable, write_trained
from more4d.training.cache.sources import SourceSettings, vism_source
from more4d.training.flow import FlowSettings, empty_text, require_prediction
from more4d.training.latents import cached_conditions
from more4d.training.loop import Place, train
from more4d.training.settings import TrainSettings
from more4d.training.validation import ValidationSettings
from more4d.training.vism import ViSMObjective


class ViSMParams(Section):
    """What the loss weighs, how long to train, and on what."""

    flow: FlowSettings
    train: TrainSettings
    source: SourceSettings = SourceSettings()
    validation: ValidationSettings = ValidationSettings()
    """What is generated every `train.validate_every` steps."""
    lora: LoRASettings | None = None
    """An adapter to train in place of all weights; it is written too, and merged into the network that is."""


class ViSMStage(Stage[ViSMParams]):
    """Latents to a ViSM transformer."""

    name = "vism"
    together = True
    section = ViSMParams
    inputs = {"latents": "datasets/latents", "vae": "models/motion_vae", "base": "models/tiny-base"}
    outputs = {"vism": "models/vism", "history": "results/plots/vism.csv"}

    def run(self, context: Context[ViSMParams]) -> dict[str, float]:
        """First and last losses."""
        params = context.params
        vae = context.inputs["vae"] / "vae.safetensors"
        models = Models.load(context.inputs["base"], overrides={"vae": vae})
        require_prediction(params.flow, models.config.generation.prediction)
        vism = models.vism
        make_trainable(vism, params.lora, seed=context.seed)
        flops = training_flops(models.config, "views", lora=params.lora is not None).flops
        folder, decoded = context.inputs["latents"], params.flow.decoded_weight > 0
        posterior = params.flow.sample_posterior
        size = context.video.frames, context.video.height, context.video.width
        source = vism_source(
            params.source, folder, models, root=context.root, largest=size, decoded=decoded, posterior=posterior
        )
        arguments = vism, vism, models.view_vae, source, cached_conditions, params.flow
        objective = ViSMObjective(*arguments, empty_text=empty_text(models), flops=flops)
        if params.train.validate_every:
            objective.validation = view_validation(objective, models, context, params.source, params.validation)
        place = Place(context.work, logs=context.logs, root=context.root)
        result = train(objective, params.train, seed=context.seed, work=context.work, place=place)
        if context.world.main:
            file = context.outputs["vism"] / "vism.safetensors"
            write_trained(vism, result, file, params.lora, base=models.files["vism"])
            result.write(context.outputs["history"])
        return result.metrics()


STAGE = ViSMStage()
