"""Trains 4D-ViSM on renders of TrajScene from original and novel cameras (paper section 4.3)."""

from more4d.models.bundle import Models, save_network
from more4d.settings import Section
from more4d.stages.base import Context, Stage
from more4d.training.cache.sources import SourceSettings, vism_source
from more4d.training.flow import FlowSettings, empty_text, require_prediction
from more4d.training.latents import cached_conditions
from more4d.training.loop import TrainSettings, train
from more4d.training.vism import ViSMObjective


class ViSMParams(Section):
    """What the loss weighs, how long to train, and on what."""

    flow: FlowSettings
    train: TrainSettings
    source: SourceSettings = SourceSettings()


class ViSMStage(Stage[ViSMParams]):
    """Latents to a ViSM transformer."""

    name = "vism"
    section = ViSMParams
    inputs = {"latents": "datasets/latents", "vae": "models/motion_vae", "base": "models/tiny-base"}
    outputs = {"vism": "models/vism", "history": "results/plots/vism.csv"}

    def run(self, context: Context[ViSMParams]) -> dict[str, float]:
        """First and last losses."""
        params = context.params
        vae = context.inputs["vae"] / "vae.safetensors"
        models = Models.load(context.inputs["base"], overrides={"vae": vae})
        require_prediction(params.flow, models.config.generation.prediction)
        vism = models.vism.requires_grad_(True)
        folder, decoded = context.inputs["latents"], params.flow.decoded_weight > 0
        posterior = params.flow.sample_posterior
        source = vism_source(params.source, folder, models, root=context.root, decoded=decoded, posterior=posterior)
        arguments = vism, vism, models.view_vae, source, cached_conditions, params.flow
        objective = ViSMObjective(*arguments, empty_text=empty_text(models))
        result = train(objective, params.train, seed=context.seed, work=context.work)
        vism.load_state_dict(result.ema)
        save_network(vism, context.outputs["vism"] / "vism.safetensors")
        return result.write(context.outputs["history"])


STAGE = ViSMStage()
