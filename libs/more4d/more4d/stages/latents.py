"""Computes once what the trainings of STraG and ViSM read: latents, text, image and motion features of every sample."""

from typing import Literal

from pydantic import Field

from more4d.settings import Section
from more4d.stages.base import Context, Stage
from more4d.training.cache.build import build_cache
from more4d.training.cache.fill import Encoding
from more4d.training.cache.networks import CheckpointEncoders
from more4d.training.cache.rows import StoredDtype
from more4d.training.cache.store import LatentStore
from more4d.training.distributed.world import join_world


class LatentsParams(Section):
    """What is encoded, where, and how it is kept."""

    decoded: bool = False
    """Whether to keep true motion and videos beside, for a decoded error: most of the bytes, and a linear-start VAE alone
    decodes fast enough for one."""
    dtype: StoredDtype = "float16"
    """What numbers are rounded to."""
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    """Where the encoders run; "auto" is the GPU where there is one, each rank's own where there are several."""
    spare_gigabytes: float = Field(default=20.0, ge=0)
    """What is kept under .cache/latents of earlier checkpoints or samples, longest unused thrown out first."""


class LatentsStage(Stage[LatentsParams]):
    """TrajScene to a latent cache. A rerun computes only what .cache/latents does not hold; ranks share the shards."""

    name = "latents"
    section = LatentsParams
    inputs = {"trajscene": "datasets/trajscene", "vae": "models/motion_vae", "base": "models/tiny-base"}
    outputs = {"latents": "datasets/latents"}
    together = True

    def run(self, context: Context[LatentsParams]) -> dict[str, float]:
        """Samples and views in each split, files and their megabytes: the same whether they were computed or taken."""
        params, output, video = context.params, context.outputs["latents"], context.video
        world, vae = join_world(params.device), context.inputs["vae"] / "vae.safetensors"
        networks = CheckpointEncoders(context.inputs["base"], vae=vae, device=str(world.device))
        encoding = Encoding(networks, params.dtype, params.decoded)
        store = LatentStore(context.root / ".cache" / "latents")
        largest = video.frames, video.height, video.width
        cache = build_cache(context.inputs["trajscene"], encoding, output, store, world=world, largest=largest)
        if not world.main:
            return {}
        store.cull(cache.used, int(params.spare_gigabytes * 1e9))
        counts = {
            f"{split}_{name}": sum(line["split"] == split for line in lines)
            for split in ("train", "val")
            for name, lines in (("samples", cache.samples), ("views", cache.views))
        }
        volume = sum(file.stat().st_size for file in output.iterdir())
        return {**counts, "files": len(cache.files), "megabytes": round(volume / 1e6, 3)}


STAGE = LatentsStage()
