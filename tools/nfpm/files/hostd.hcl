# The configuration of this machine as a supplier's host.
#   joule hostd -config /etc/joule/hostd.hcl --check    validates it
#   joule doctor                                        examines the machine
#   systemctl restart joule-hostd                       applies it; tasks run on

# Where the host key, tasks and unsent usage records are kept. It must survive
# a power cut: no tmpfs. Back up host.key.
data_dir = "/var/lib/joule"

# The settlement servers, all of them: the operator names them.
servers = [
  # "https://s1.example:7433",
  # "https://s2.example:7433",
  # "https://s3.example:7433",
]

# The certificate of the operator's CA. Without it the system's CAs are trusted.
# ca_file = "/etc/joule/ca.pem"

# The name that this host is enrolled under; the hostname unless it is set.
# host = "dc-1"

# "crowd" or "datacenter", as it was enrolled.
class = "crowd"

# OCI runtimes that tasks may be run with: names on PATH or absolute paths. The
# first that works is the default.
runtimes = ["runc"]

# Lets tasks without an image run programs of this machine, read-only. Leave it
# off unless you trust every customer.
allow_host_root = false

# How often usage is recorded. A host that dies is paid up to about this moment.
# checkpoint = "2s"
