"""Fine-tunes the motion VAE's codec and decoder on TrajScene, from the base checkpoint (paper section 4.2)."""

from more4d.data.shards import TrajSceneDataset
from more4d.models.bundle import Models, save_network
from more4d.settings import Section
from more4d.stages.base import Context, Stage
from more4d.training.loop import TrainSettings, train
from more4d.training.trajscene import TrajSceneMotion
from more4d.training.vae import MotionVAEObjective, VAELossSettings


class MotionVAEParams(Section):
    """What a reconstruction error costs, and how long to train."""

    loss: VAELossSettings
    train: TrainSettings


class MotionVAEStage(Stage[MotionVAEParams]):
    """TrajScene to a motion VAE."""

    name = "motion_vae"
    section = MotionVAEParams
    inputs = {"trajscene": "datasets/trajscene", "base": "models/tiny-base"}
    outputs = {"vae": "models/motion_vae", "history": "results/plots/motion_vae.csv"}

    def run(self, context: Context[MotionVAEParams]) -> dict[str, float]:
        """First and last losses."""
        params = context.params
        vae = Models.load(context.inputs["base"]).vae
        samples = TrajSceneDataset(context.inputs["trajscene"], "train", with_views=False)
        source = TrajSceneMotion(samples[i] for i in range(len(samples)))
        objective = MotionVAEObjective(vae, source, params.loss)
        result = train(objective, params.train, seed=context.seed, work=context.work)
        objective.module.load_state_dict(result.ema)
        save_network(vae, context.outputs["vae"] / "vae.safetensors")
        return result.write(context.outputs["history"])


STAGE = MotionVAEStage()
