"""The web page: the job from a file to an adaptation, over the functions the command line uses."""
