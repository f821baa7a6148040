"""The latent cache: what the transformers' trainings read, encoded once, and the same encoded as it is asked for.

`networks` loads a checkpoint's encoders, `encoders` says what each makes of a sample, `rows` how that lies in a file,
`store` keeps files by their key, `build` makes the cache, `dataset` reads it, `direct` does without it.
"""
