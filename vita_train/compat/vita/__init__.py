"""The public VITA trainer's command line, read into a recipe of one stage.

``flags`` lists every argument, ``parse`` reads a command line, ``trainable`` resolves which modules
train, ``conflicts`` and ``pending`` say what is refused, ``build`` makes the recipe, ``scripts``
holds the 17 launch scripts.
"""
