"""The KFP components: one folder each, every body three lines that call
`vita_train.pipeline.steps`."""
