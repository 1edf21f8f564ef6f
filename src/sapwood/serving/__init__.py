"""A pool over HTTP, as the OpenAI API speaks: from a folder's vetting to a process that drains."""
