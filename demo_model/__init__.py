"""The recipe of the demo model: text, speech, training, evaluation and export.

The model is a small cache-aware streaming FastConformer Hybrid (RNNT + CTC) of NeMo's own class,
trained on synthesised speech only. It exists so that the service, its tests and its benchmarks have
real words without any download. Run `python -m demo_model --help`.
"""
