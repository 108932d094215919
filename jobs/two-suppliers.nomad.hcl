# One workload on two suppliers' hardware: as a batch, once (or `repeat` times) on
# a host of each class. The durations stand for what the same work takes there.

variable "crowd" {
  type        = string
  default     = "2.32"
  description = "Seconds that the workload takes on crowd hardware."
}

variable "datacenter" {
  type        = string
  default     = "4.19"
  description = "Seconds that the workload takes on datacenter hardware."
}

variable "repeat" {
  type        = number
  default     = 1
  description = "How many times it runs on each, at the same time."
}

job "two-suppliers" {
  namespace = "acme"
  type      = "batch"

  # What failed stays failed: each run is a line of the bill.
  reschedule {
    attempts  = 0
    unlimited = false
  }

  group "crowd" {
    count = var.repeat

    constraint {
      attribute = "${attr.driver.joule.class}"
      value     = "crowd"
    }

    restart {
      attempts = 0
      mode     = "fail"
    }

    task "work" {
      driver = "joule"

      config {
        command = "/bin/sleep"
        args    = [var.crowd]

        max_price {
          base   = "1.00" # USD per hour
          cpu    = "1.00"
          memory = "1.00"
        }
        budget = "5.00" # USD for the whole job
      }

      resources {
        cpu    = 100
        memory = 64
      }
    }
  }

  group "datacenter" {
    count = var.repeat

    constraint {
      attribute = "${attr.driver.joule.class}"
      value     = "datacenter"
    }

    restart {
      attempts = 0
      mode     = "fail"
    }

    task "work" {
      driver = "joule"

      config {
        command = "/bin/sleep"
        args    = [var.datacenter]

        max_price {
          base   = "1.00"
          cpu    = "1.00"
          memory = "1.00"
        }
        budget = "5.00"
      }

      resources {
        cpu    = 100
        memory = 64
      }
    }
  }
}
