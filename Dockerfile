# syntax=docker/dockerfile:1

# --- build: the whole toolchain, thrown away afterwards
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The caches live outside the image, so a change of one line does not build every dependency again.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin portcullis \
    && install -D target/release/portcullis /out/portcullis \
    && mkdir /out/data

# --- run: glibc, the binary, and an ordinary user; no shell
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /out/portcullis /usr/local/bin/portcullis
# The embedded database and this node's private key; writable for the user below and for nobody else.
COPY --from=build --chown=65532:65532 --chmod=0700 /out/data /data
USER 65532:65532
WORKDIR /data
VOLUME /data
# Inside a container 127.0.0.1 would be reachable by nobody.
ENV HOST=0.0.0.0 PORT=8000 DATA_DIR=/data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=6s --start-period=20s \
    CMD ["/usr/local/bin/portcullis", "stats"]
ENTRYPOINT ["/usr/local/bin/portcullis"]
CMD ["serve"]
