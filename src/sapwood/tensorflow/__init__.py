"""TensorFlow as a second engine: the same files and arrays, the same training, no conversion.

A net is a dict of `tf.Variable`s that keep their Hugging Face names and layouts, and a pure
function of them (`bodies`). What a method trains are more named entries of that dict. Files in the
order they are used: `arrival` imports TensorFlow, `arrays` are the variables of a net, `bodies` and
`heads` compute, `graph` makes a loss one operation that torch can differentiate, `supervision` and
`reading` are what `fit` trains on, `saved_model` writes a net for TensorFlow's own tools.

Losses and gradients are TensorFlow's. Optimiser, schedule, checkpoints, search and every file are
those of both engines, so a run is stopped, resumed, judged and saved as with torch.

Nothing here imports TensorFlow before `arrival.tensorflow` is called.
"""
