// A stand-in for libnvidia-ml.so.1, driven by the file stub.txt beside it, which
// is read anew by every call. See nvmlstub.go for its lines. With -DOLD it lacks
// what NVIDIA added later, as a library installed years ago does.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <stdint.h>
#include "nvml.h"

#define EXPORT __attribute__((visibility("default")))
#define MAX 64

struct device {
	char uuid[NVML_DEVICE_UUID_V2_BUFFER_SIZE], model[NVML_DEVICE_NAME_V2_BUFFER_SIZE], parent[NVML_DEVICE_UUID_V2_BUFFER_SIZE];
	unsigned long long total, used, energy;
	unsigned gi, ci;
	int has_energy, has_samples, has_memory, mig, accounting, lost; // mig, accounting: -1 unknown
};

static struct {
	char driver[80];
	struct device devices[MAX];
	int n;
} state;

// Handles stay good while devices come and go: they number UUIDs ever seen.
static char handles[MAX][NVML_DEVICE_UUID_V2_BUFFER_SIZE];
static int handle_count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static FILE *open_file(void) {
	Dl_info info;
	if (!dladdr((void *)open_file, &info)) abort();
	char path[4096];
	snprintf(path, sizeof path, "%s", info.dli_fname);
	char *slash = strrchr(path, '/');
	snprintf(slash ? slash + 1 : path, 16, "stub.txt");
	return fopen(path, "re");
}

static struct device *find(const char *uuid) {
	for (int i = 0; i < state.n; i++)
		if (!strcmp(state.devices[i].uuid, uuid)) return &state.devices[i];
	return NULL;
}

static struct device *add(const char *uuid) {
	if (state.n == MAX) abort();
	struct device *d = &state.devices[state.n++];
	memset(d, 0, sizeof *d);
	snprintf(d->uuid, sizeof d->uuid, "%s", uuid);
	d->mig = d->accounting = -1;
	return d;
}

// load reads the file and does what it asks of the function: hang, crash, fail.
static nvmlReturn_t load(const char *function) {
	memset(&state, 0, sizeof state);
	FILE *f = open_file();
	if (!f) return NVML_ERROR_DRIVER_NOT_LOADED;
	char line[512], a[NVML_DEVICE_UUID_V2_BUFFER_SIZE], b[NVML_DEVICE_UUID_V2_BUFFER_SIZE];
	unsigned long long x, y;
	nvmlReturn_t ret = NVML_SUCCESS;
	while (fgets(line, sizeof line, f)) {
		struct device *d;
		if (sscanf(line, "driver %79s", state.driver) == 1) continue;
		if (sscanf(line, "hang %95s", a) == 1 && !strcmp(a, function)) for (;;) pause();
		if (sscanf(line, "crash %95s", a) == 1 && !strcmp(a, function)) *(volatile int *)1 = 1;
		if (sscanf(line, "fail %95s %llu", a, &x) == 2 && !strcmp(a, function)) ret = (nvmlReturn_t)x;
		if (sscanf(line, "gpu %95s %95[^\n]", a, b) == 2) {
			d = add(a);
			snprintf(d->model, sizeof d->model, "%s", b);
			d->has_samples = 1;
			continue;
		}
		if (sscanf(line, "slice %95s %95s %llu %llu", a, b, &x, &y) == 4) {
			d = add(b);
			snprintf(d->parent, sizeof d->parent, "%s", a);
			d->gi = x, d->ci = y;
			continue;
		}
		if (sscanf(line, "%*s %95s", a) != 1 || !(d = find(a))) continue;
		if (sscanf(line, "mem %*s %llu %llu", &x, &y) == 2) d->has_memory = 1, d->total = x << 20, d->used = y << 20;
		else if (sscanf(line, "energy %*s %llu", &x) == 1) d->has_energy = 1, d->energy = x;
		else if (sscanf(line, "mig %*s %llu", &x) == 1) d->mig = x;
		else if (sscanf(line, "accounting %*s %llu", &x) == 1) d->accounting = x;
		else if (!strncmp(line, "nosamples ", 10)) d->has_samples = 0;
		else if (!strncmp(line, "lost ", 5)) d->lost = 1;
	}
	fclose(f);
	return ret;
}

static nvmlDevice_t handle_of(const char *uuid) {
	int i = 0;
	while (i < handle_count && strcmp(handles[i], uuid)) i++;
	if (i == handle_count) {
		if (handle_count == MAX) abort();
		snprintf(handles[handle_count++], sizeof handles[0], "%s", uuid);
	}
	nvmlDevice_t h;
	memset(&h, 0, sizeof h);
	*(uintptr_t *)&h = i + 1;
	return h;
}

// device finds a handle's device in what load has read.
static nvmlReturn_t device(nvmlDevice_t h, struct device **d) {
	uintptr_t i = *(uintptr_t *)&h;
	if (i == 0 || i > (uintptr_t)handle_count) return NVML_ERROR_INVALID_ARGUMENT;
	*d = find(handles[i - 1]);
	return !*d || (*d)->lost ? NVML_ERROR_GPU_IS_LOST : NVML_SUCCESS;
}

#define BEGIN \
	pthread_mutex_lock(&lock); \
	nvmlReturn_t ret = load(__func__);
#define BEGIN_DEVICE(h) \
	struct device *d = NULL; \
	BEGIN \
	if (!ret) ret = device(h, &d);
#define END \
	pthread_mutex_unlock(&lock); \
	return ret;

// lines calls fn for each line that begins with the word and names the device.
static void lines(const char *word, const struct device *d, void (*fn)(void *, const char *), void *arg) {
	FILE *f = open_file();
	char line[512], w[32], uuid[NVML_DEVICE_UUID_V2_BUFFER_SIZE];
	while (f && fgets(line, sizeof line, f))
		if (sscanf(line, "%31s %95s", w, uuid) == 2 && !strcmp(w, word) && !strcmp(uuid, d->uuid)) fn(arg, line);
	if (f) fclose(f);
}

EXPORT nvmlReturn_t nvmlInit_v2(void) { BEGIN END }
EXPORT nvmlReturn_t nvmlInitWithFlags(unsigned flags) { (void)flags; BEGIN END }
EXPORT nvmlReturn_t nvmlShutdown(void) { return NVML_SUCCESS; }

EXPORT const char *nvmlErrorString(nvmlReturn_t r) {
	switch (r) {
	case NVML_SUCCESS: return "Success";
	case NVML_ERROR_DRIVER_NOT_LOADED: return "Driver Not Loaded";
	case NVML_ERROR_GPU_IS_LOST: return "GPU is lost";
	case NVML_ERROR_NOT_FOUND: return "Not Found";
	case NVML_ERROR_NOT_SUPPORTED: return "Not Supported";
	default: return "Unknown Error";
	}
}

EXPORT nvmlReturn_t nvmlSystemGetDriverVersion(char *v, unsigned n) {
	BEGIN
	if (!ret) snprintf(v, n, "%s", state.driver);
	END
}

EXPORT nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *n) {
	BEGIN
	*n = 0;
	for (int i = 0; i < state.n; i++) *n += !*state.devices[i].parent;
	END
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *h) {
	BEGIN
	int i = 0;
	for (unsigned whole = 0; i < state.n; i++)
		if (!*state.devices[i].parent && whole++ == index) break;
	if (!ret) {
		if (i == state.n) ret = NVML_ERROR_INVALID_ARGUMENT;
		else if (state.devices[i].lost) ret = NVML_ERROR_GPU_IS_LOST;
		else *h = handle_of(state.devices[i].uuid);
	}
	END
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *h) {
	BEGIN
	if (!ret && !find(uuid)) ret = NVML_ERROR_NOT_FOUND;
	if (!ret) *h = handle_of(uuid);
	END
}

EXPORT nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t h, char *uuid, unsigned n) {
	BEGIN_DEVICE(h)
	if (!ret) snprintf(uuid, n, "%s", d->uuid);
	END
}

EXPORT nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t h, char *name, unsigned n) {
	BEGIN_DEVICE(h)
	if (!ret && !*d->model) ret = NVML_ERROR_NOT_SUPPORTED;
	if (!ret) snprintf(name, n, "%s", d->model);
	END
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t h, nvmlMemory_t *m) {
	BEGIN_DEVICE(h)
	if (!ret && !d->has_memory) ret = NVML_ERROR_NOT_SUPPORTED;
	if (!ret) m->total = d->total, m->used = d->used, m->free = d->total - d->used;
	END
}

struct pids {
	unsigned n, most, version;
	void *out;
};

static void put_process(void *arg, const char *line) {
	struct pids *p = arg;
	unsigned long long pid, mib;
	if (sscanf(line, "%*s %*s %llu %llu", &pid, &mib) != 2) return;
	if (p->n < p->most) {
		if (p->version == 1) {
			nvmlProcessInfo_v1_t *o = (nvmlProcessInfo_v1_t *)p->out + p->n;
			o->pid = pid, o->usedGpuMemory = mib << 20;
		} else {
			nvmlProcessInfo_v2_t *o = (nvmlProcessInfo_v2_t *)p->out + p->n;
			o->pid = pid, o->usedGpuMemory = mib << 20, o->gpuInstanceId = o->computeInstanceId = ~0u;
		}
	}
	p->n++;
}

static nvmlReturn_t processes(struct device *d, unsigned *n, void *out, unsigned version) {
	struct pids p = {0, *n, version, out};
	lines("process", d, put_process, &p);
	*n = p.n;
	return p.n > p.most ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses(nvmlDevice_t h, unsigned *n, nvmlProcessInfo_v1_t *out) {
	BEGIN_DEVICE(h)
	if (!ret) ret = processes(d, n, out, 1);
	END
}

#ifndef OLD

EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t h, unsigned *n, nvmlProcessInfo_t *out) {
	BEGIN_DEVICE(h)
	if (!ret) ret = processes(d, n, out, 3);
	END
}

EXPORT nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t h, unsigned long long *mj) {
	BEGIN_DEVICE(h)
	if (!ret && !d->has_energy) ret = NVML_ERROR_NOT_SUPPORTED;
	if (!ret) *mj = d->energy;
	END
}

struct sampling {
	unsigned n, most;
	unsigned long long since;
	nvmlSample_t *out;
};

static void put_sample(void *arg, const char *line) {
	struct sampling *s = arg;
	unsigned long long at;
	unsigned pct;
	if (sscanf(line, "%*s %*s %llu %u", &at, &pct) != 2 || at <= s->since) return;
	if (s->out && s->n < s->most) {
		s->out[s->n].timeStamp = at;
		s->out[s->n].sampleValue.uiVal = pct;
	}
	s->n++;
}

EXPORT nvmlReturn_t nvmlDeviceGetSamples(nvmlDevice_t h, nvmlSamplingType_t type, unsigned long long since,
		nvmlValueType_t *kind, unsigned *n, nvmlSample_t *out) {
	BEGIN_DEVICE(h)
	if (!ret && (type != NVML_GPU_UTILIZATION_SAMPLES || !d->has_samples || *d->parent)) ret = NVML_ERROR_NOT_SUPPORTED;
	if (!ret) {
		struct sampling s = {0, out ? *n : 0, since, out};
		lines("sample", d, put_sample, &s);
		*kind = NVML_VALUE_TYPE_UNSIGNED_INT;
		*n = s.n;
		if (!s.n) ret = NVML_ERROR_NOT_FOUND;
	}
	END
}

EXPORT nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t h, unsigned *now, unsigned *pending) {
	BEGIN_DEVICE(h)
	if (!ret && d->mig < 0) ret = NVML_ERROR_NOT_SUPPORTED;
	if (!ret) *now = *pending = d->mig;
	END
}

EXPORT nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t h, unsigned *n) {
	BEGIN_DEVICE(h)
	*n = ret ? 0 : 7;
	END
}

EXPORT nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t h, unsigned index, nvmlDevice_t *out) {
	BEGIN_DEVICE(h)
	if (!ret) {
		ret = NVML_ERROR_NOT_FOUND;
		unsigned k = 0;
		for (int i = 0; i < state.n; i++)
			if (!strcmp(state.devices[i].parent, d->uuid) && k++ == index) {
				*out = handle_of(state.devices[i].uuid);
				ret = NVML_SUCCESS;
				break;
			}
	}
	END
}

EXPORT nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t h, nvmlDeviceAttributes_t *a) {
	BEGIN_DEVICE(h)
	if (!ret && !*d->parent) ret = NVML_ERROR_NOT_SUPPORTED;
	if (!ret) {
		memset(a, 0, sizeof *a);
		a->gpuInstanceSliceCount = d->gi, a->computeInstanceSliceCount = d->ci;
		a->memorySizeMB = d->total >> 20;
	}
	END
}

EXPORT nvmlReturn_t nvmlDeviceGetAccountingMode(nvmlDevice_t h, nvmlEnableState_t *mode) {
	BEGIN_DEVICE(h)
	if (!ret && d->accounting < 0) ret = NVML_ERROR_NOT_SUPPORTED;
	if (!ret) *mode = (nvmlEnableState_t)d->accounting;
	END
}

static void put_pid(void *arg, const char *line) {
	struct pids *p = arg;
	unsigned pid;
	if (sscanf(line, "%*s %*s %u", &pid) != 1) return;
	if (p->n < p->most) ((unsigned *)p->out)[p->n] = pid;
	p->n++;
}

EXPORT nvmlReturn_t nvmlDeviceGetAccountingPids(nvmlDevice_t h, unsigned *n, unsigned *out) {
	BEGIN_DEVICE(h)
	if (!ret) {
		struct pids p = {0, *n, 0, out};
		lines("account", d, put_pid, &p);
		*n = p.n;
		if (p.n > p.most) ret = NVML_ERROR_INSUFFICIENT_SIZE;
	}
	END
}

struct account {
	unsigned pid;
	int found;
	nvmlAccountingStats_t *out;
};

static void get_account(void *arg, const char *line) {
	struct account *a = arg;
	unsigned long long pid, time, start, running;
	if (sscanf(line, "%*s %*s %llu %llu %llu %llu", &pid, &time, &start, &running) != 4 || pid != a->pid) return;
	a->found = 1;
	a->out->time = running ? 0 : time, a->out->startTime = start, a->out->isRunning = running;
}

EXPORT nvmlReturn_t nvmlDeviceGetAccountingStats(nvmlDevice_t h, unsigned pid, nvmlAccountingStats_t *out) {
	BEGIN_DEVICE(h)
	if (!ret) {
		memset(out, 0, sizeof *out);
		struct account a = {pid, 0, out};
		lines("account", d, get_account, &a);
		if (!a.found) ret = NVML_ERROR_NOT_FOUND;
	}
	END
}

#endif
