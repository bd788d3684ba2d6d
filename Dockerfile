# Packs the static binary that `make dist` built. No shell, no package manager, no root.
#   make dist && docker build -t clearbox .
#   docker run -v clearbox:/data -p 443:8443 -p 443:8443/udp clearbox
FROM scratch
COPY dist/clearbox /clearbox
USER 65532:65532
VOLUME /data
EXPOSE 8443 8443/udp
ENTRYPOINT ["/clearbox"]
CMD ["serve", "--config", "/data/clearbox.yaml"]
