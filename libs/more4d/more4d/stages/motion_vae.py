"""Fine-tunes the motion VAE's codec and decoder on TrajScene, from the base checkpoint (paper section 4.2)."""

from pydantic import Field

from more4d.data.shards import TrajSceneDataset
from more4d.models.bundle import Models, save_network
from more4d.models.vae import MotionVAE
from more4d.settings import Section
from more4d.stages.base import Context, Stage
from more4d.training.loop import TrainSettings
from more4d.training.trajscene import TrajSceneMotion
from more4d.training.vae import MotionVAEObjective, VAELossSettings, train_or_keep


class MotionVAEParams(Section):
    """What a reconstruction error costs, how long to train, and on how much to measure."""

    loss: VAELossSettings
    train: TrainSettings
    held_out: int = Field(default=64, gt=0)
    """Samples of val, held in memory, on which the trained weights must beat the base's to be kept."""


class MotionVAEStage(Stage[MotionVAEParams]):
    """TrajScene to a motion VAE."""

    name = "motion_vae"
    section = MotionVAEParams
    inputs = {"trajscene": "datasets/trajscene", "base": "models/tiny-base"}
    outputs = {"vae": "models/motion_vae", "history": "results/plots/motion_vae.csv"}

    def run(self, context: Context[MotionVAEParams]) -> dict[str, float]:
        """First and last losses, and the error on the val split before and after."""
        params = context.params
        vae = Models.load(context.inputs["base"]).vae
        objective = MotionVAEObjective(vae, _split(context, "train", vae), params.loss)
        held_out = _split(context, "val", vae).held_out(params.held_out)
        result, errors = train_or_keep(objective, params.train, held_out, seed=context.seed, work=context.work)
        save_network(vae, context.outputs["vae"] / "vae.safetensors")
        return result.write(context.outputs["history"]) | errors


def _split(context: Context[MotionVAEParams], split: str, vae: MotionVAE) -> TrajSceneMotion:
    samples = TrajSceneDataset(context.inputs["trajscene"], split, with_views=False)
    video = context.video
    return TrajSceneMotion(samples, vae.config.motion_camera, largest=(video.frames, video.height, video.width))


STAGE = MotionVAEStage()
