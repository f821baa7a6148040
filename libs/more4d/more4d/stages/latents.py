"""Computes once what STraG's training reads: latents, text, image and motion features of every sample."""

from pydantic import Field
from tqdm import tqdm

from more4d.data.shards import TrajSceneDataset
from more4d.models.bundle import Models
from more4d.settings import Section
from more4d.stages.base import Context, Stage
from more4d.training.latents import encode_samples, write_latents


class LatentsParams(Section):
    """How many samples are encoded at once."""

    batch_size: int = Field(gt=0)


class LatentsStage(Stage[LatentsParams]):
    """TrajScene to a latent cache, one file a split."""

    name = "latents"
    section = LatentsParams
    inputs = {"trajscene": "datasets/trajscene", "vae": "models/motion_vae", "base": "models/tiny-base"}
    outputs = {"latents": "datasets/latents"}

    def run(self, context: Context[LatentsParams]) -> dict[str, float]:
        """Samples in each split."""
        vae = context.inputs["vae"] / "vae.safetensors"
        models = Models.load(context.inputs["base"], overrides={"vae": vae})
        counts = {}
        for split in ("train", "val"):
            samples = TrajSceneDataset(context.inputs["trajscene"], split, with_views=False)
            starts = range(0, len(samples), context.params.batch_size)
            chunks = (range(i, min(len(samples), i + context.params.batch_size)) for i in starts)
            batches = (encode_samples(models, [samples[i] for i in chunk]) for chunk in chunks)
            file = context.outputs["latents"] / f"{split}.safetensors"
            counts[split] = write_latents(tqdm(batches, total=len(starts), desc=split, leave=False), file)
        return {f"{split}_samples": count for split, count in counts.items()}


STAGE = LatentsStage()
