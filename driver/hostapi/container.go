package hostapi

import (
	"crypto/sha256"
	"encoding/hex"
)

// ContainerID names the container, and so the cgroup, of a task: it is derived
// from Nomad's task id (alloc/task/invocation) alone, so that anyone who looks
// at the host can tell whose a process is. It is also the name of the task's
// directory under hostd's data_dir.
func ContainerID(taskID string) string {
	sum := sha256.Sum256([]byte(taskID))
	return hex.EncodeToString(sum[:16])
}
