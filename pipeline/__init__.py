"""The stages: pack, pretrain, cache-teacher, distill, embed, eval. They read and write stores through `cache`."""
