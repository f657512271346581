# An image of a server and its model, which are rolled out and back together. Build it in the folder of the artifact:
#   docker build -f deploy/model.Dockerfile --build-arg MODEL=u2netp.onnx -t mattebox-u2netp:0.1.0-cpu models/
# Docker has not built it yet: README.md beside this file says what has been run.
ARG SERVER_IMAGE=mattebox:0.1.0-cpu
FROM ${SERVER_IMAGE}
ARG MODEL
COPY --chmod=0444 ${MODEL} /models/model.onnx
ENV MATTEBOX_MODEL=/models/model.onnx
