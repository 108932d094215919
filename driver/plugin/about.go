// Package plugin is Joule's Nomad task driver. It only translates: Nomad's
// driver contract on one side, hostd's (driver/hostapi) on the other. It holds
// no task state of its own, because Nomad kills and revives it at will; what a
// task is, does and costs is known to hostd.
//
// Nomad starts the binary three times per agent start: to read its schemas, to
// validate its configuration, and to use it. Only the third has an agent's
// configuration; before that, nothing is dialled, started or written.
package plugin

import (
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/fsisolation"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
)

const (
	// Name is what a job writes as its driver.
	Name = "joule"
	// Version is the plugin's version, as Nomad's loader compares it.
	Version = "0.1.0"
	// handleVersion is the version of the state in a task's handle.
	handleVersion = 1
)

func pluginInfo() *base.PluginInfoResponse {
	return &base.PluginInfoResponse{
		Type:              base.PluginTypeDriver,
		PluginApiVersions: []string{drivers.ApiVersion010},
		PluginVersion:     Version,
		Name:              Name,
	}
}

// configSpec is the plugin block of a Nomad client's configuration. Required
// fields are left to Config.resolve, which reports all faults at once.
func configSpec() *hclspec.Spec {
	return hclspec.NewObject(map[string]*hclspec.Spec{
		"hostd_config": hclspec.NewAttr("hostd_config", "string", false),
		"hostd_binary": hclspec.NewAttr("hostd_binary", "string", false),
		"start_hostd": hclspec.NewDefault(
			hclspec.NewAttr("start_hostd", "bool", false),
			hclspec.NewLiteral("true"),
		),
	})
}

// taskConfigSpec is the config block of a customer's task.
func taskConfigSpec() *hclspec.Spec {
	return hclspec.NewObject(map[string]*hclspec.Spec{
		"image":              hclspec.NewAttr("image", "string", false),
		"image_pull_timeout": hclspec.NewAttr("image_pull_timeout", "string", false),
		"entrypoint":         hclspec.NewAttr("entrypoint", "list(string)", false),
		"command":            hclspec.NewAttr("command", "string", false),
		"args":               hclspec.NewAttr("args", "list(string)", false),
		"runtime":            hclspec.NewAttr("runtime", "string", false),
		"readonly_rootfs":    hclspec.NewAttr("readonly_rootfs", "bool", false),
		"cap_add":            hclspec.NewAttr("cap_add", "list(string)", false),
		"cap_drop":           hclspec.NewAttr("cap_drop", "list(string)", false),
		"ulimit":             hclspec.NewBlockAttrs("ulimit", "string", false),
		"pids_limit":         hclspec.NewAttr("pids_limit", "number", false),
		"cpu_hard_limit":     hclspec.NewAttr("cpu_hard_limit", "bool", false),
		"network_mode":       hclspec.NewAttr("network_mode", "string", false),
		"work_dir":           hclspec.NewAttr("work_dir", "string", false),
		"budget":             hclspec.NewAttr("budget", "string", false),
		"devices":            hclspec.NewAttr("devices", "list(string)", false),
		"max_price": hclspec.NewBlock("max_price", false, hclspec.NewObject(map[string]*hclspec.Spec{
			"base":   hclspec.NewAttr("base", "string", false),
			"cpu":    hclspec.NewAttr("cpu", "string", false),
			"gpu":    hclspec.NewAttr("gpu", "string", false),
			"memory": hclspec.NewAttr("memory", "string", false),
		})),
	})
}

func capabilities() *drivers.Capabilities {
	return &drivers.Capabilities{
		SendSignals: true,
		Exec:        true,
		// Image makes Nomad set NOMAD_ALLOC_DIR, NOMAD_TASK_DIR and
		// NOMAD_SECRETS_DIR to the container's /alloc, /local and /secrets, keeps
		// the agent's own environment out of the task's, and builds no chroot.
		FSIsolation: fsisolation.Image,
		// A job's "bridge", "cni/*" and "none" are all group mode: Nomad makes
		// the network namespace, the task joins it. Nomad's own "none" means
		// tasks that run elsewhere, and is not for us.
		NetIsolationModes: []drivers.NetIsolationMode{
			drivers.NetIsolationModeHost,
			drivers.NetIsolationModeGroup,
		},
		// Volumes of the client's own configuration and CSI's, bound into the task.
		MountConfigs: drivers.MountConfigSupportAll,
	}
}
