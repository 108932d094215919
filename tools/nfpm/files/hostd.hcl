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

# Where tasks' images may come from, and what they may take of the disk.
images {
  # cache_dir   = "/var/lib/joule/images"   # a disk that overlayfs can write to
  # cache_limit = "20GiB"                   # the least recently used go first
  # registries  = ["*"]                     # "*" is every public one; others by host[:port]
  # auth_file   = "/etc/joule/registries.json" # in Docker's format, mode 0600
  # local_dirs  = []                        # for oci:/... and docker-archive:/... images
}

# What keeps tasks from this machine and from each other.
isolation {
  # "required": without it, nothing runs; "auto": used where this machine has it.
  # user_namespace = "auto"
  # seccomp        = "auto"
  # cap_allow      = ["chown", "net_raw"]   # what cap_add may name; Nomad's own list unless it is set
  # pids_max       = 4096                   # processes and threads of a task
  # cpu_hard_limit = false                  # true: no task uses more CPU than it asked for
}
