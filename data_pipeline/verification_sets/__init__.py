"""Published verification and identification sets, turned into packed ones once.

Pairs of images become a `pairs.PairSet`, pairs of templates a `template_set.TemplateSet`, probes
among distractors a `probe_set.ProbeSet`: shards as for training, and tables that name samples.
"""
