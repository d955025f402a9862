# The scripts with PyTorch's CPU build; docs/setup.md has the commands. In outputs made here the commit is "unknown":
# the image has no git.
FROM python:3.11-slim

# USER_ID: the user's on the host, so that what the scripts write into mounted folders belongs to that user.
ARG USER_ID=1000
RUN useradd --create-home --uid "$USER_ID" semg

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /semg
RUN chown semg /semg

# The CPU build first: it counts as the torch that requirements.txt asks for, whose own build brings CUDA's libraries.
COPY requirements.txt ./
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "$(grep '^torch==' requirements.txt)" \
    && pip install --no-cache-dir -r requirements.txt

COPY *.py ./
COPY semg/ semg/
COPY --chown=semg splits/ splits/
COPY --chown=semg checkpoints/best_model.ckpt checkpoints/

USER $USER_ID
CMD ["python", "train.py", "--help"]
