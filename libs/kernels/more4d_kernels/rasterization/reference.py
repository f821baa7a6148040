"""Gaussian splatting in plain PyTorch, every Gaussian against every pixel: the differentiable definition.

Suffixes: C cameras, N Gaussians, P pixels. Conventions are gsplat's: EWA projection, `eps2d` added to the 2D
covariance, pixel centres at +0.5, alpha = min(0.999, opacity exp(-sigma)), alphas below 1/255 skipped,
blending stops before the transmittance falls to 1e-4. The order is that of the depth in float32, ties by
index, whatever the tensors' dtype. A Gaussian of which any number is not finite is not drawn.
"""

import torch
from torch import Tensor
from torch.nn import functional

MAX_ALPHA = 0.999
MIN_ALPHA = 1 / 255
MIN_TRANSMITTANCE = 1e-4


def rasterization_reference(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    eps2d: float = 0.3,
    backgrounds: Tensor | None = None,
    render_mode: str = "RGB",
) -> tuple[Tensor, Tensor]:
    """Colours [C, H, W, 3 or 4] and alphas [C, H, W, 1] in means' dtype; see `rasterization`. Memory is N * H * W."""
    images, alphas = [], []
    parameters = torch.cat((means, quats, scales, opacities[:, None], colors), dim=1)
    sound = parameters.isfinite().all(-1)
    means, quats, scales, opacities, colors = (t[sound] for t in (means, quats, scales, opacities, colors))
    for camera, (viewmat, K) in enumerate(zip(viewmats, Ks, strict=True)):
        order = depth_order(means, viewmat, near_plane, far_plane)
        centres, conics, depths = project_gaussians(
            means[order], quats[order], scales[order], viewmat, K, width, height, eps2d=eps2d
        )
        features = colors[order]
        if render_mode == "RGB+ED":
            features = torch.cat((features, depths[:, None]), dim=1)
        weights_NP = blend_weights(centres, conics, opacities[order], width, height)
        alpha_P = weights_NP.sum(0)
        image = weights_NP.T @ features
        if render_mode == "RGB+ED":
            image = torch.cat((image[:, :3], image[:, 3:] / alpha_P[:, None].clamp(min=1e-10)), dim=1)
        if backgrounds is not None:
            behind = functional.pad(backgrounds[camera], (0, features.shape[1] - 3))
            image = image + (1 - alpha_P)[:, None] * behind
        images.append(image.reshape(height, width, -1))
        alphas.append(alpha_P.reshape(height, width, 1))
    return torch.stack(images), torch.stack(alphas)


def depth_order(means: Tensor, viewmat: Tensor, near_plane: float, far_plane: float) -> Tensor:
    """Indices of the Gaussians between the planes, nearest first by float32 depth, ties by index."""
    x, y, z = means.float().unbind(-1)
    row = viewmat[2].float()
    depth = row[0] * x + row[1] * y + row[2] * z + row[3]
    usable = (depth >= near_plane) & (depth <= far_plane)
    order = torch.argsort(depth, stable=True)
    return order[usable[order]]


def project_gaussians(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    viewmat: Tensor,
    K: Tensor,
    width: int,
    height: int,
    *,
    eps2d: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """2D centres [N, 2] in pixels, inverse 2D covariances [N, 2, 2] (NaN where singular) and depths [N]."""
    rotation = viewmat[:3, :3]
    points = means @ rotation.T + viewmat[:3, 3]
    depth = points[:, 2]
    axes = rotation @ quaternion_to_matrix(quats) * scales[:, None, :]
    focal = torch.stack((K[0, 0], K[1, 1]))
    centre = torch.stack((K[0, 2], K[1, 2]))
    size = torch.tensor((width, height)).to(means)
    slope = points[:, :2] / depth[:, None]
    # The linearisation of the projection is taken at most 0.15 of the image outside of it, as in gsplat.
    margin = 0.3 * 0.5 * size / focal
    clamped = torch.minimum(torch.maximum(slope, -(centre / focal + margin)), (size - centre) / focal + margin)
    jacobian = torch.cat((torch.diag_embed(focal.expand(len(means), 2)), -(focal * clamped).unsqueeze(-1)), dim=-1)
    spread = jacobian / depth[:, None, None] @ axes
    covariance = spread @ spread.transpose(-1, -2) + eps2d * torch.eye(2).to(means)
    (a, b), (_, c) = covariance[:, 0].unbind(-1), covariance[:, 1].unbind(-1)
    determinant = a * c - b * b
    determinant = torch.where(determinant > 0, determinant, torch.nan)
    conics = torch.stack((c, -b, -b, a), dim=-1).reshape(-1, 2, 2) / determinant[:, None, None]
    return slope * focal + centre, conics, depth


def blend_weights(centres: Tensor, conics: Tensor, opacities: Tensor, width: int, height: int) -> Tensor:
    """How much each Gaussian (nearest first) adds to each pixel [N, P], rows of the image one after the other."""
    v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack((u, v), dim=-1).reshape(-1, 2).to(centres) + 0.5
    offset_NP2 = centres[:, None] - pixels
    sigma_NP = 0.5 * torch.einsum("npi,nij,npj->np", offset_NP2, conics, offset_NP2)
    alpha_NP = (opacities[:, None] * torch.exp(-sigma_NP)).clamp(max=MAX_ALPHA)
    alpha_NP = torch.where((sigma_NP >= 0) & (alpha_NP >= MIN_ALPHA), alpha_NP, 0)
    after_NP = torch.cumprod(1 - alpha_NP, dim=0)
    before_NP = torch.cat((torch.ones_like(after_NP[:1]), after_NP[:-1]))[: len(after_NP)]
    return torch.where(after_NP > MIN_TRANSMITTANCE, alpha_NP * before_NP, 0)


def quaternion_to_matrix(quats: Tensor) -> Tensor:
    """Rotations [N, 3, 3] of quaternions [N, 4] in the order w, x, y, z, of any length; zero gives the identity."""
    w, x, y, z = functional.normalize(quats, dim=-1).unbind(-1)
    rows = (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip
    return torch.stack(rows, dim=-1).reshape(-1, 3, 3)
