"""The Open Inference Protocol (KServe's version 2) for any node: the field's own clients work unchanged.

A gateway composes and decides nothing: it speaks to the cluster through one
:class:`~mcp.client.client.Client`, so any node answers for any model, whoever runs it. The pure parts read
and write the protocol (``tensors``, ``requests``, ``responses``, ``failures``, ``described``); ``operations``
calls the cluster, and ``rest`` and ``server`` are the shell, which needs the extra ``http``.

Source: https://github.com/kserve/open-inference-protocol, and the extensions for binary tensor data,
statistics and the model repository in https://github.com/triton-inference-server/server/tree/main/docs/protocol.
"""
