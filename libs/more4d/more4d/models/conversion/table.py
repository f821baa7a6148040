"""The published names of every tensor beside ours: one table, read in both directions by `names`.

A row is a published name, then ours. A placeholder stands for the same text on both sides; `{unit}` alone is spelled
differently, because Wan numbers the layers of the VAE's decoder through and diffusers groups them in blocks.
"""

PLACEHOLDERS = {
    "n": r"\d+",
    "p": r"weight|bias",
    "qk": r"[qk]",
    "qkv": r"[qkv]",
    "res": r"norm1|conv1|norm2|conv2",
    "side": r"encoder|decoder",
    "vit": r"norm1|norm2|attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2",
}
PUBLISHED_UNIT, OUR_UNIT = r"\d+", r"\d+\.(?:resnets\.\d+|upsamplers\.0)"
"""A layer of the decoder: `7`, and for us `1.upsamplers.0` where a block has three residual layers."""

WAN_DIT = """
    patch_embedding.{p}                     patch_embedding.{p}
    ref_conv.{p}                            reference_embedding.{p}
    text_embedding.0.{p}                    condition_embedder.text_embedder.linear_1.{p}
    text_embedding.2.{p}                    condition_embedder.text_embedder.linear_2.{p}
    time_embedding.0.{p}                    condition_embedder.time_embedder.linear_1.{p}
    time_embedding.2.{p}                    condition_embedder.time_embedder.linear_2.{p}
    time_projection.1.{p}                   condition_embedder.time_proj.{p}
    img_emb.proj.0.{p}                      condition_embedder.image_embedder.norm1.{p}
    img_emb.proj.1.{p}                      condition_embedder.image_embedder.ff.net.0.proj.{p}
    img_emb.proj.3.{p}                      condition_embedder.image_embedder.ff.net.2.{p}
    img_emb.proj.4.{p}                      condition_embedder.image_embedder.norm2.{p}
    blocks.{n}.modulation                   blocks.{n}.scale_shift_table
    blocks.{n}.self_attn.{qkv}.{p}          blocks.{n}.attn1.to_{qkv}.{p}
    blocks.{n}.self_attn.o.{p}              blocks.{n}.attn1.to_out.0.{p}
    blocks.{n}.self_attn.norm_{qk}.weight   blocks.{n}.attn1.norm_{qk}.weight
    blocks.{n}.cross_attn.{qkv}.{p}         blocks.{n}.attn2.to_{qkv}.{p}
    blocks.{n}.cross_attn.o.{p}             blocks.{n}.attn2.to_out.0.{p}
    blocks.{n}.cross_attn.norm_{qk}.weight  blocks.{n}.attn2.norm_{qk}.weight
    blocks.{n}.cross_attn.k_img.{p}         blocks.{n}.attn2.add_k_proj.{p}
    blocks.{n}.cross_attn.v_img.{p}         blocks.{n}.attn2.add_v_proj.{p}
    blocks.{n}.cross_attn.norm_k_img.weight blocks.{n}.attn2.norm_added_k.weight
    blocks.{n}.norm3.{p}                    blocks.{n}.norm2.{p}
    blocks.{n}.ffn.0.{p}                    blocks.{n}.ffn.net.0.proj.{p}
    blocks.{n}.ffn.2.{p}                    blocks.{n}.ffn.net.2.{p}
    head.modulation                         scale_shift_table
    head.head.{p}                           proj_out.{p}
"""
MOTION_GUIDANCE = """
    feature_adapter.{n}.{p}                                   motion_adapter.{n}.{p}
    blocks.{n}.spatial_guidance_self.gate                     blocks.{n}.motion1.gate
    blocks.{n}.spatial_guidance_self.spatial_guide.1.{p}      blocks.{n}.motion1.linear.{p}
    blocks.{n}.spatial_guidance_ffn.gate                      blocks.{n}.motion2.gate
    blocks.{n}.spatial_guidance_ffn.spatial_guide.1.{p}       blocks.{n}.motion2.linear.{p}
"""
OMNIMAE = """
    trunk.mask_token                            mask_token
    trunk.pos_embed                             trunk.pos_embed
    trunk.patch_embed.proj.1.{p}                trunk.patch_embed.proj.1.{p}
    trunk.blocks.{n}.{vit}.{p}                  trunk.blocks.{n}.{vit}.{p}
    trunk.norm.{p}                              trunk.norm.{p}
    trunk.decoder.pos_embed                     decoder.pos_embed
    trunk.decoder.decoder_embed.{p}             decoder.decoder_embed.{p}
    trunk.decoder.decoder_blocks.{n}.{vit}.{p}  decoder.decoder_blocks.{n}.{vit}.{p}
    trunk.decoder.norm.{p}                      decoder.norm.{p}
    head.{p}                                    head.{p}
"""
WAN_VAE = """
    conv1.{p}                                   quant_conv.{p}
    conv2.{p}                                   post_quant_conv.{p}
    {side}.conv1.{p}                            {side}.conv_in.{p}
    encoder.downsamples.{n}.residual.0.gamma    encoder.down_blocks.{n}.norm1.gamma
    encoder.downsamples.{n}.residual.2.{p}      encoder.down_blocks.{n}.conv1.{p}
    encoder.downsamples.{n}.residual.3.gamma    encoder.down_blocks.{n}.norm2.gamma
    encoder.downsamples.{n}.residual.6.{p}      encoder.down_blocks.{n}.conv2.{p}
    encoder.downsamples.{n}.shortcut.{p}        encoder.down_blocks.{n}.conv_shortcut.{p}
    encoder.downsamples.{n}.resample.1.{p}      encoder.down_blocks.{n}.resample.1.{p}
    encoder.downsamples.{n}.time_conv.{p}       encoder.down_blocks.{n}.time_conv.{p}
    {side}.middle.0.residual.0.gamma            {side}.mid_block.resnets.0.norm1.gamma
    {side}.middle.0.residual.2.{p}              {side}.mid_block.resnets.0.conv1.{p}
    {side}.middle.0.residual.3.gamma            {side}.mid_block.resnets.0.norm2.gamma
    {side}.middle.0.residual.6.{p}              {side}.mid_block.resnets.0.conv2.{p}
    {side}.middle.1.norm.gamma                  {side}.mid_block.attentions.0.norm.gamma
    {side}.middle.1.to_qkv.{p}                  {side}.mid_block.attentions.0.to_qkv.{p}
    {side}.middle.1.proj.{p}                    {side}.mid_block.attentions.0.proj.{p}
    {side}.middle.2.residual.0.gamma            {side}.mid_block.resnets.1.norm1.gamma
    {side}.middle.2.residual.2.{p}              {side}.mid_block.resnets.1.conv1.{p}
    {side}.middle.2.residual.3.gamma            {side}.mid_block.resnets.1.norm2.gamma
    {side}.middle.2.residual.6.{p}              {side}.mid_block.resnets.1.conv2.{p}
    decoder.upsamples.{unit}.residual.0.gamma   decoder.up_blocks.{unit}.norm1.gamma
    decoder.upsamples.{unit}.residual.2.{p}     decoder.up_blocks.{unit}.conv1.{p}
    decoder.upsamples.{unit}.residual.3.gamma   decoder.up_blocks.{unit}.norm2.gamma
    decoder.upsamples.{unit}.residual.6.{p}     decoder.up_blocks.{unit}.conv2.{p}
    decoder.upsamples.{unit}.shortcut.{p}       decoder.up_blocks.{unit}.conv_shortcut.{p}
    decoder.upsamples.{unit}.resample.1.{p}     decoder.up_blocks.{unit}.resample.1.{p}
    decoder.upsamples.{unit}.time_conv.{p}      decoder.up_blocks.{unit}.time_conv.{p}
    {side}.head.0.gamma                         {side}.norm_out.gamma
    {side}.head.2.{p}                           {side}.conv_out.{p}
"""
TRAJECTORY_ENCODER = """
    conv_in.{p}                 net.conv_in.{p}
    down.0.block.{n}.{res}.{p}  net.blocks.{n}.{res}.{p}
    norm_out.{p}                net.norm_out.{p}
    conv_out.{p}                net.conv_out.{p}
"""
TRAJECTORY_DECODER = """
    conv_in.{p}                 net.conv_in.{p}
    up.0.block.{n}.{res}.{p}    net.blocks.{n}.{res}.{p}
    norm_out.{p}                net.norm_out.{p}
    conv_out.{p}                net.conv_out.{p}
"""
KOHYA_LORA = """
    {layer}.lora_down.weight    {layer}.lora_A.weight
    {layer}.lora_up.weight      {layer}.lora_B.weight
    {layer}.alpha               {layer}.alpha
"""
"""`{layer}` is a linear layer of `WAN_DIT`: published with `lora_unet__` before it and underscores for dots."""
NOT_LINEAR = ("patch_embedding", "ref_conv", "img_emb.proj.0", "img_emb.proj.4", "blocks.{n}.norm3")
"""Modules of `WAN_DIT` with weight and bias that no LoRA is on: convolutions and norms."""
