"""What runs here without a download or a GPU, and what takes its place at scale."""

PARTS: tuple[tuple[str, str, str], ...] = (
    (
        "Source",
        "rendered animal scenes with exact ground truth, and real clips from installed packages",
        "any WebVid-style table (CSV or Parquet) over https, S3 or files",
    ),
    (
        "Captions",
        "the table's own caption",
        "CogVLM2 behind an OpenAI-compatible server (vLLM, SGLang)",
    ),
    (
        "Selection",
        "a rule set",
        "DeepSeek-V3 behind an OpenAI-compatible server, with the paper's two criteria",
    ),
    (
        "Depth",
        "a small depth network trained in the lineage",
        "UniDepthV2, or MoGe (MIT) where commercial use matters",
    ),
    (
        "Tracks",
        "exact tracks where the scene is rendered, chained dense optical flow otherwise",
        "DELTA in its own environment",
    ),
    ("Shards", "WebDataset tar files on this disk", "the same files on S3"),
    (
        "Motion VAE, 4D-STraG, 4D-ViSM",
        "the same classes at tiny size, fine-tuned on the CPU from a tiny base made by this repository",
        "Wan 2.1 14B or 1.3B, accelerate and DeepSpeed on Slurm",
    ),
    (
        "Text, image and motion encoders",
        "the same interfaces at tiny size",
        "umt5-xxl, CLIP ViT-H, OmniMAE ViT-B",
    ),
    ("Rendering", "a CPU splat rasterizer", "gsplat, same result"),
    (
        "Evaluation",
        "errors against exact ground truth; weight-free measures under their own names",
        "VBench, a VLM judge, trajectory and reprojection error",
    ),
    ("Orchestration", "Dagster and DVC on this machine", "the same graph, stages submitted to Slurm"),
)
