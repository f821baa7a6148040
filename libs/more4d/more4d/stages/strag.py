"""Trains 4D-STraG on the latent cache, from the base checkpoint (paper section 4.2)."""

from more4d.models.bundle import Models
from more4d.models.lora import LoRASettings
from more4d.models.work import training_flops
from more4d.settings import Section
from more4d.stages.base import Context, Stage
from more4d.stages.validating import trajectory_validation
from more4d.training.adapters import make_trainable, write_trained
from more4d.training.cache.sources import SourceSettings, strag_source
from more4d.training.flow import FlowSettings, empty_text, require_prediction
from more4d.training.latents import cached_conditions
from more4d.training.loop import Place, train
from more4d.training.settings import TrainSettings
from more4d.training.strag import STraGObjective
from more4d.training.validation import ValidationSettings


class STraGParams(Section):
    """What the loss weighs, how long to train, and on what."""

    flow: FlowSettings
    train: TrainSettings
    source: SourceSettings = SourceSettings()
    validation: ValidationSettings = ValidationSettings()
    """What is generated every `train.validate_every` steps."""
    lora: LoRASettings | None = None
    """An adapter to train in place of all weights; it is written too, and merged into the network that is."""


class STraGStage(Stage[STraGParams]):
    """Latents to a STraG transformer."""

    name = "strag"
    together = True
    section = STraGParams
    inputs = {"latents": "datasets/latents", "vae": "models/motion_vae", "base": "models/tiny-base"}
    outputs = {"strag": "models/strag", "history": "results/plots/strag.csv"}

    def run(self, context: Context[STraGParams]) -> dict[str, float]:
        """First and last losses."""
        params = context.params
        vae = context.inputs["vae"] / "vae.safetensors"
        models = Models.load(context.inputs["base"], overrides={"vae": vae})
        require_prediction(params.flow, models.config.generation.prediction)
        strag = models.strag
        make_trainable(strag, params.lora, seed=context.seed)
        flops = training_flops(models.config, "trajectories", lora=params.lora is not None).flops
        folder, decoded = context.inputs["latents"], params.flow.decoded_weight > 0
        posterior = params.flow.sample_posterior
        size = context.video.frames, context.video.height, context.video.width
        source = strag_source(
            params.source, folder, models, root=context.root, largest=size, decoded=decoded, posterior=posterior
        )
        arguments = strag, strag, models.vae, source, cached_conditions, params.flow
        reference, unguided = models.config.generation.reference, empty_text(models)
        objective = STraGObjective(*arguments, reference=reference, empty_text=unguided, flops=flops)
        if params.train.validate_every:
            objective.validation = trajectory_validation(objective, models, context, params.source, params.validation)
        place = Place(context.work, logs=context.logs, root=context.root)
        result = train(objective, params.train, seed=context.seed, work=context.work, place=place)
        if context.world.main:
            file = context.outputs["strag"] / "strag.safetensors"
            write_trained(strag, result, file, params.lora, base=models.files["strag"])
            result.write(context.outputs["history"])
        return result.metrics()


STAGE = STraGStage()
