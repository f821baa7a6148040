"""Trains 4D-ViSM on renders of TrajScene from original and novel cameras (paper section 4.3)."""

from tqdm import tqdm

from more4d.data.shards import TrajSceneDataset
from more4d.models.bundle import Models, save_network
from more4d.settings import Section
from more4d.stages.base import Context, Stage
from more4d.training.flow import FlowSettings, empty_text, require_prediction
from more4d.training.latents import cached_conditions
from more4d.training.loop import TrainSettings, train
from more4d.training.trajscene import sample_view_pairs
from more4d.training.view_source import ViewPairs
from more4d.training.vism import ViSMObjective


class ViSMParams(Section):
    """What the loss weighs, and how long to train."""

    flow: FlowSettings
    train: TrainSettings


class ViSMStage(Stage[ViSMParams]):
    """TrajScene to a ViSM transformer."""

    name = "vism"
    section = ViSMParams
    inputs = {"trajscene": "datasets/trajscene", "vae": "models/motion_vae", "base": "models/tiny-base"}
    outputs = {"vism": "models/vism", "history": "results/plots/vism.csv"}

    def run(self, context: Context[ViSMParams]) -> dict[str, float]:
        """First and last losses."""
        params = context.params
        vae = context.inputs["vae"] / "vae.safetensors"
        models = Models.load(context.inputs["base"], overrides={"vae": vae})
        require_prediction(params.flow, models.config.generation.prediction)
        samples = TrajSceneDataset(context.inputs["trajscene"], "train")
        numbers = tqdm(range(len(samples)), desc="renders", leave=False)
        pairs = list(sample_view_pairs((samples[i] for i in numbers), models))
        vism = models.vism.requires_grad_(True)
        source = ViewPairs(pairs, models.view_vae)
        arguments = vism, vism, models.view_vae, source, cached_conditions, params.flow
        objective = ViSMObjective(*arguments, empty_text=empty_text(models))
        result = train(objective, params.train, seed=context.seed, work=context.work)
        vism.load_state_dict(result.ema)
        save_network(vism, context.outputs["vism"] / "vism.safetensors")
        return result.write(context.outputs["history"])


STAGE = ViSMStage()
