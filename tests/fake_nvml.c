/* A stand-in for NVIDIA's libnvidia-ml.so.1: as much of NVML as kd2edge asks, so that the real pynvml is driven through
 * it where there is no GPU. What it plays is in the environment variable FAKE_NVML, a list of words, read at every call:
 *   two       two GPUs instead of one
 *   jetson    all but a name is NOT_SUPPORTED, as on an Orin (the report of jetson-stats' users)
 *   old       a driver before 12.2: no energy counter, and reasons by their old name alone
 *   hot       throttled by heat, at two thirds of its clock
 *   set       clocks set by the user below the highest: applications clocks, and the reason that says so
 *   lost      after ten looks at the clock the GPU is off the bus: every call is GPU_IS_LOST
 *   silent    nvmlInit fails as without a driver
 *   self      the program that asks computes on the GPU too
 * Power is 70 W; each question for the energy finds 700 mJ more.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, NOT_INIT = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, SMALL = 7, NO_DRIVER = 9, NO_FUNCTION = 13,
       LOST = 15 };
typedef unsigned long long u64;
typedef struct { unsigned pid; u64 used; unsigned instance, compute; } Process;

static int initialized, clocks_asked;
static u64 millijoules;
static int gpus[2];

static int plays(const char *word) {
    const char *all = getenv("FAKE_NVML");
    return all && strstr(all, word) != NULL;
}
static int ready(const void *gpu) {
    if (!initialized) return NOT_INIT;
    if (plays("lost") && clocks_asked > 20) return LOST;
    return gpu == &gpus[0] || gpu == &gpus[1] ? OK : INVALID;
}
static int tells(const void *gpu) {
    int state = ready(gpu);
    return state ? state : plays("jetson") ? NOT_SUPPORTED : OK;
}
#define ASK(gpu) do { int state = tells(gpu); if (state) return state; } while (0)

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    if (plays("silent")) return NO_DRIVER;
    initialized++, clocks_asked = 0;
    return OK;
}
int nvmlShutdown(void) { return initialized ? (initialized--, OK) : NOT_INIT; }
int fake_nvml_open(void) { return initialized; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = plays("two") ? 2 : 1; return initialized ? OK : NOT_INIT; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **gpu) {
    if (index >= (plays("two") ? 2u : 1u)) return INVALID;
    *gpu = &gpus[index];
    return OK;
}
int nvmlDeviceGetUUID(void *gpu, char *uuid, unsigned size) {
    snprintf(uuid, size, "GPU-%08x-0000", gpu == &gpus[1] ? 0xbeef : 0xcafe);
    return ready(gpu);
}
int nvmlDeviceGetHandleByUUID(const char *uuid, void **gpu) {
    if (strcmp(uuid, "MIG-1")) return NOT_FOUND;
    *gpu = &gpus[1];
    return OK;
}
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *mig, void **gpu) { *gpu = &gpus[0]; return mig ? OK : INVALID; }
int nvmlDeviceGetName(void *gpu, char *name, unsigned size) {
    snprintf(name, size, plays("jetson") ? "Orin (nvgpu)" : gpu == &gpus[1] ? "Fake L4 number two" : "Fake L4");
    return ready(gpu);
}
int nvmlDeviceGetClockInfo(void *gpu, unsigned type, unsigned *mhz) {
    clocks_asked++;
    ASK(gpu);
    *mhz = type == 2 ? 6251 : plays("hot") ? 1360 : plays("set") ? 1200 : 2040;
    return OK;
}
int nvmlDeviceGetMaxClockInfo(void *gpu, unsigned type, unsigned *mhz) { ASK(gpu); *mhz = type == 2 ? 6251 : 2040; return OK; }
int nvmlDeviceGetApplicationsClock(void *gpu, unsigned type, unsigned *mhz) {
    ASK(gpu);
    *mhz = type == 2 ? 6251 : plays("set") ? 1500 : 2040;
    return OK;
}
int nvmlDeviceGetDefaultApplicationsClock(void *gpu, unsigned type, unsigned *mhz) {
    ASK(gpu);
    *mhz = type == 2 ? 6251 : 2040;
    return OK;
}
int nvmlDeviceGetPowerUsage(void *gpu, unsigned *milliwatts) { ASK(gpu); *milliwatts = 70000; return OK; }
int nvmlDeviceGetTotalEnergyConsumption(void *gpu, u64 *energy) {
    ASK(gpu);
    if (plays("old")) return NOT_SUPPORTED;
    *energy = millijoules += 700;
    return OK;
}
int nvmlDeviceGetTemperature(void *gpu, unsigned sensor, unsigned *celsius) {
    ASK(gpu);
    *celsius = plays("hot") ? 91 : 64;
    return sensor ? INVALID : OK;
}
static u64 bits(void) { return plays("hot") ? 0x60 : plays("set") ? 0x2 : plays("new") ? 0x800 : 0x1; }
int nvmlDeviceGetCurrentClocksEventReasons(void *gpu, u64 *reasons) {
    ASK(gpu);
    if (plays("old")) return NO_FUNCTION;
    *reasons = bits();
    return OK;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(void *gpu, u64 *reasons) { ASK(gpu); *reasons = bits(); return OK; }
int nvmlDeviceGetUtilizationRates(void *gpu, unsigned rates[2]) { ASK(gpu); rates[0] = 37, rates[1] = 11; return OK; }
int nvmlDeviceGetComputeRunningProcesses_v3(void *gpu, unsigned *count, Process *found) {
    ASK(gpu);
    if (*count < 2) return *count = 2, SMALL;
    *count = 2;
    found[0] = (Process){.pid = plays("self") ? (unsigned)getpid() : 7, .used = 1u << 20};
    found[1] = (Process){.pid = 8, .used = 1u << 20};
    return OK;
}
int nvmlSystemGetProcessName(unsigned pid, char *name, unsigned size) {
    if (pid == 8) return NOT_FOUND;
    snprintf(name, size, "/opt/somewhere/trainer");
    return OK;
}
int nvmlDeviceGetEnforcedPowerLimit(void *gpu, unsigned *milliwatts) { ASK(gpu); *milliwatts = 72000; return OK; }
int nvmlDeviceGetPersistenceMode(void *gpu, unsigned *mode) { ASK(gpu); *mode = 1; return OK; }
int nvmlDeviceGetCudaComputeCapability(void *gpu, int *major, int *minor) { ASK(gpu); *major = 8, *minor = 9; return OK; }
int nvmlDeviceGetMemoryInfo(void *gpu, u64 sizes[3]) { ASK(gpu); sizes[0] = (u64)23034 << 20; return OK; }
int nvmlSystemGetDriverVersion(char *version, unsigned size) { snprintf(version, size, "580.65.06"); return OK; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 13000; return OK; }
