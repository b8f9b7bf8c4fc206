/* A libnvidia-ml.so.1 whose devices are described by the text file $STUB_NVML_STATE, read anew at every call.

   A line is `name value`:

       init_error N                 nvmlReturn_t of nvmlInit
       count N                      devices
       gpuI.uuid, gpuI.name, gpuI.memory (bytes)
       gpuI.energy_mj, gpuI.power_mw
       gpuI.clock_mw                the counter also runs by itself, at this power, a new value every 100 ms
       gpuI.energy_error, gpuI.power_error, gpuI.handle_error, gpuI.throttle_error    nvmlReturn_t
       gpuI.throttle (mask), gpuI.processes
       gpuI.mig N                   MIG enabled with N instances; absent: not supported
       gpuI.migK.uuid, gpuI.migK.name, gpuI.migK.memory
*/
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SUCCESS 0
#define INVALID_ARGUMENT 2
#define NOT_SUPPORTED 3
#define NOT_FOUND 6
#define INSUFFICIENT_SIZE 7

typedef struct { int gpu; int mig; } Device; /* mig -1: the whole device */
typedef Device *Handle;

static Device devices[16][9];

static int text(const char *name, char *out, size_t size) {
    const char *path = getenv("STUB_NVML_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[512];
    size_t length = strlen(name);
    int found = 0;
    if (!file) return 0;
    while (!found && fgets(line, sizeof line, file)) {
        if (strncmp(line, name, length) == 0 && line[length] == ' ') {
            line[strcspn(line, "\n")] = 0;
            snprintf(out, size, "%s", line + length + 1);
            found = 1;
        }
    }
    fclose(file);
    return found;
}

static long long number(const char *name, long long fallback) {
    char value[256];
    return text(name, value, sizeof value) ? atoll(value) : fallback;
}

static const char *key(Handle device, const char *field) {
    static __thread char name[128];
    if (device->mig < 0) snprintf(name, sizeof name, "gpu%d.%s", device->gpu, field);
    else snprintf(name, sizeof name, "gpu%d.mig%d.%s", device->gpu, device->mig, field);
    return name;
}

static int copied(Handle device, const char *field, char *out, unsigned size) {
    return text(key(device, field), out, size) ? SUCCESS : NOT_SUPPORTED;
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    for (int gpu = 0; gpu < 16; gpu++)
        for (int mig = -1; mig < 8; mig++) devices[gpu][mig + 1] = (Device){gpu, mig};
    return (int)number("init_error", SUCCESS);
}
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int result) {
    switch (result) {
    case NOT_SUPPORTED: return "Not Supported";
    case 9: return "Driver Not Loaded";
    case 15: return "GPU is lost";
    case 999: return "Unknown Error";
    default: return "an error of the stub";
    }
}
int nvmlSystemGetDriverVersion(char *out, unsigned size) { snprintf(out, size, "999.1"); return SUCCESS; }
int nvmlSystemGetCudaDriverVersion_v2(int *out) { *out = 13020; return SUCCESS; }
int nvmlDeviceGetCount_v2(unsigned *out) { *out = (unsigned)number("count", 0); return SUCCESS; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Handle *out) {
    if (index >= (unsigned)number("count", 0)) return INVALID_ARGUMENT;
    *out = &devices[index][0];
    return (int)number(key(*out, "handle_error"), SUCCESS);
}
int nvmlDeviceGetUUID(Handle device, char *out, unsigned size) { return copied(device, "uuid", out, size); }
int nvmlDeviceGetName(Handle device, char *out, unsigned size) { return copied(device, "name", out, size); }
int nvmlDeviceGetMemoryInfo(Handle device, unsigned long long *out) { /* total, free, used */
    out[0] = (unsigned long long)number(key(device, "memory"), 0);
    out[1] = out[0];
    out[2] = 0;
    return out[0] ? SUCCESS : NOT_SUPPORTED;
}
int nvmlDeviceGetMigMode(Handle device, unsigned *current, unsigned *pending) {
    *current = *pending = number(key(device, "mig"), -1) >= 0;
    return *current ? SUCCESS : NOT_SUPPORTED;
}
int nvmlDeviceGetMaxMigDeviceCount(Handle device, unsigned *out) {
    (void)device;
    *out = 7;
    return SUCCESS;
}
int nvmlDeviceGetMigDeviceHandleByIndex(Handle device, unsigned index, Handle *out) {
    if (index >= number(key(device, "mig"), 0)) return NOT_FOUND;
    *out = &devices[device->gpu][index + 1];
    return SUCCESS;
}
int nvmlDeviceGetGpuInstanceId(Handle device, unsigned *out) { *out = (unsigned)device->mig + 7; return SUCCESS; }
int nvmlDeviceGetComputeInstanceId(Handle device, unsigned *out) { (void)device; *out = 0; return SUCCESS; }
int nvmlDeviceGetTotalEnergyConsumption(Handle device, unsigned long long *out) {
    int error = (int)number(key(device, "energy_error"), SUCCESS);
    long long milliwatts = number(key(device, "clock_mw"), 0);
    struct timespec now;
    if (error) return error;
    if (device->mig >= 0) return NOT_SUPPORTED;
    clock_gettime(CLOCK_MONOTONIC, &now);
    *out = (unsigned long long)number(key(device, "energy_mj"), 0);
    *out += (unsigned long long)(milliwatts * (now.tv_sec * 10 + now.tv_nsec / 100000000) / 10);
    return SUCCESS;
}
int nvmlDeviceGetPowerUsage(Handle device, unsigned *out) {
    int error = (int)number(key(device, "power_error"), SUCCESS);
    if (error) return error;
    *out = (unsigned)number(key(device, "power_mw"), 0);
    return SUCCESS;
}
int nvmlDeviceGetCurrentClocksEventReasons(Handle device, unsigned long long *out) {
    *out = (unsigned long long)number(key(device, "throttle"), 0);
    return (int)number(key(device, "throttle_error"), SUCCESS);
}
int nvmlDeviceGetComputeRunningProcesses_v3(Handle device, unsigned *count, void *infos) {
    unsigned running = (unsigned)number(key(device, "processes"), 0);
    unsigned room = *count;
    *count = running;
    if (room < running) return INSUFFICIENT_SIZE;
    if (running) memset(infos, 0, 24 * (size_t)running);
    return SUCCESS;
}
