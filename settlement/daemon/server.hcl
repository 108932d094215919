# One settlement server: joule server -config server.hcl
# Everything but data_dir may be left out; what stands here is the default,
# unless the line says that it is an example. joule server -config FILE --check
# validates a file.

data_dir  = "/var/lib/joule-server"   # required
name      = "s1"                      # default: the machine's host name
listen    = "127.0.0.1:7433"          # of the API
raft_addr = "127.0.0.1:7434"          # for the other servers alone
nomad     = "http://127.0.0.1:4646"

log_level  = "info"                   # debug, info, warn, error
log_format = "text"                   # or json: one object a line

# Health checks (/healthz, /readyz, /livez) need no token. /metrics wants an
# operator's, unless it is public to whoever reaches listen.
metrics_public = false

# Examples from here on.
nomad_token_file = "/etc/joule/nomad.token"      # mode 0600
cert_file        = "/etc/joule/api.pem"          # required unless listen is loopback
key_file         = "/etc/joule/api-key.pem"
tokens_file      = "/etc/joule/tokens.hcl"       # mode 0600; joule token create. None: this machine alone is answered
api_advertise    = "https://s1.example:7433"     # where clients reach this server

# Several servers are one cluster.
bootstrap_expect  = 3                            # the same on the servers that begin together
retry_join        = ["10.0.0.1:7434", "10.0.0.2:7434", "10.0.0.3:7434"]
raft_advertise    = "10.0.0.1:7434"
raft_ca_file      = "/etc/joule/joule-ca.pem"    # joule tls ca create, joule tls cert create
raft_cert_file    = "/etc/joule/s1.pem"
raft_key_file     = "/etc/joule/s1-key.pem"
remove_dead_after = "72h"                        # default: never

# Where the price of a JOULE comes from. Without this block operators set it.
rate {
  interval    = "15s"
  min_sources = 2
  max_age     = "2m"
  deviation   = "1.5%"
  move        = "0.1%"
  refresh     = "2m"

  source "one" {
    url       = "https://prices.example/joule"
    path      = "data.0.price"
    time_path = "data.0.time"
    weight    = 1
    timeout   = "5s"
    max_body  = 65536
  }
  source "two" {
    url  = "https://other.example/v1"
    path = "usd"
  }
}

# What the leader does about offences that the servers can prove by themselves:
# equivocation, and hosts that are lost with leases open. It should be the same
# on every server. What a fine comes to is the schedule's: joule fine schedule.
fines {
  mode       = "simulate"   # the log says what would be fined; or on, or off
  silence    = "10m"        # for which a majority of the servers has not heard a host, and Nomad has given it up
  mass_share = "20%"        # where more of the hosts are silent at once, none of them is lost
}

# What clients together, and each of them (a token, or an address), may ask at
# once. What is beyond is refused with a hint when to try again. The defaults
# suit 1 GiB of memory for the API.
limits {
  requests        = 2048        # calls that run at once: no more can wait for the log
  client_requests = 256
  reads           = 64          # of those, calls that read much
  client_reads    = 16
  client_rate     = 1000        # calls a second
  client_burst    = 2000        # and at once after a pause
  sessions        = 20000       # of hosts
  client_sessions = 5000        # from one address
  batch_bytes     = 268435456   # of usage that waits to be settled
  heartbeat_rate  = 100         # a second, of one host; faster ones wait
  message_bytes   = 65536       # of one message of a call
  session_message = 1048576     # of one message of a host's session
}
