/* A stand-in for libnvidia-ml.so.1 with the functions that autotune.hardware asks, and no others:
 * a function that is missing here is missing, as in an old driver.
 *
 * The file that $NVML_STAND_IN names is what the library reports, one line each:
 *
 *     init STATUS                                       what nvmlInit returns; 0 unless given
 *     count STATUS                                      what nvmlDeviceGetCount returns, likewise
 *     driver VERSION
 *     gpu OPEN MEMORY MAJOR.MINOR TOTAL FREE UUID NAME  OPEN and MEMORY are statuses, bytes in MiB
 *     energy STATUS MILLIJOULES                         of the GPU above it; 3 unless given
 *     power STATUS MILLIWATTS                           likewise
 *     capped STATUS NANOSECONDS REASONS                 by its limit of power, and why it is slow
 *     instance MEMORY TOTAL FREE UUID NAME              a MIG instance of the GPU above it
 *
 * Each start and each shutdown is written to the same name with ".log" behind it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int nvmlReturn_t;
typedef struct nvmlDevice_st *nvmlDevice_t;

typedef struct {
    unsigned long long total;
    unsigned long long free;
    unsigned long long used;
} nvmlMemory_t;

typedef struct {
    unsigned long long referenceTime;
    unsigned long long violationTime;
} nvmlViolationTime_t;

enum {
    NVML_SUCCESS = 0,
    NVML_ERROR_UNINITIALIZED = 1,
    NVML_ERROR_INVALID_ARGUMENT = 2,
    NVML_ERROR_NOT_SUPPORTED = 3,
    NVML_ERROR_NOT_FOUND = 6,
    NVML_ERROR_INSUFFICIENT_SIZE = 7,
};

enum { MAX_DEVICES = 8, MAX_INSTANCES = 7, LINE = 256 };

struct nvmlDevice_st {
    nvmlReturn_t open;
    nvmlReturn_t memory;
    int major;
    int minor;
    nvmlMemory_t bytes;
    char uuid[LINE];
    char name[LINE];
    nvmlReturn_t energy;
    nvmlReturn_t power;
    nvmlReturn_t capped;
    unsigned long long millijoules;
    unsigned int milliwatts;
    unsigned long long capped_ns;
    unsigned long long reasons;
    unsigned int instance_count;
    struct nvmlDevice_st *instances;
};

static struct nvmlDevice_st devices[MAX_DEVICES];
static struct nvmlDevice_st instances[MAX_DEVICES][MAX_INSTANCES];
static unsigned int device_count;
static char driver[LINE];
static nvmlReturn_t init_status;
static nvmlReturn_t count_status;
static int started;

static void set_memory(struct nvmlDevice_st *device, unsigned long long total, unsigned long long free) {
    device->bytes.total = total << 20;
    device->bytes.free = free << 20;
    device->bytes.used = (total - free) << 20;
}

static void read_gpu(const char *line) {
    struct nvmlDevice_st device = {0};
    unsigned long long total, free;
    if (device_count < MAX_DEVICES
        && sscanf(line, "gpu %d %d %d.%d %llu %llu %255s %255[^\n]", &device.open, &device.memory,
                  &device.major, &device.minor, &total, &free, device.uuid, device.name) == 8) {
        set_memory(&device, total, free);
        device.energy = device.power = device.capped = NVML_ERROR_NOT_SUPPORTED;
        device.instances = instances[device_count];
        devices[device_count++] = device;
    }
}

static void read_instance(const char *line) {
    struct nvmlDevice_st device = {0};
    unsigned long long total, free;
    if (device_count > 0 && devices[device_count - 1].instance_count < MAX_INSTANCES
        && sscanf(line, "instance %d %llu %llu %255s %255[^\n]", &device.memory, &total, &free,
                  device.uuid, device.name) == 5) {
        struct nvmlDevice_st *gpu = &devices[device_count - 1];
        set_memory(&device, total, free);
        gpu->instances[gpu->instance_count++] = device;
    }
}

static void read_watts(const char *line) {
    if (device_count > 0) {
        struct nvmlDevice_st *gpu = &devices[device_count - 1];
        sscanf(line, "energy %d %llu", &gpu->energy, &gpu->millijoules);
        sscanf(line, "power %d %u", &gpu->power, &gpu->milliwatts);
        sscanf(line, "capped %d %llu %llu", &gpu->capped, &gpu->capped_ns, &gpu->reasons);
    }
}

static void read_state(const char *path) {
    char line[LINE];
    FILE *file = fopen(path, "r");
    device_count = 0;
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        sscanf(line, "init %d", &init_status);
        sscanf(line, "count %d", &count_status);
        sscanf(line, "driver %255s", driver);
        read_gpu(line);
        read_instance(line);
        read_watts(line);
    }
    if (file != NULL) {
        fclose(file);
    }
}

static void log_event(const char *event) {
    char path[4096];
    snprintf(path, sizeof path, "%s.log", getenv("NVML_STAND_IN"));
    FILE *file = fopen(path, "a");
    if (file != NULL) {
        fprintf(file, "%s\n", event);
        fclose(file);
    }
}

static nvmlReturn_t copy(const char *text, char *buffer, unsigned int length) {
    if (!started) {
        return NVML_ERROR_UNINITIALIZED;
    }
    if (strlen(text) >= length) {
        return NVML_ERROR_INSUFFICIENT_SIZE;
    }
    strcpy(buffer, text);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    if (getenv("NVML_STAND_IN") == NULL) {
        return NVML_ERROR_INVALID_ARGUMENT;
    }
    read_state(getenv("NVML_STAND_IN"));
    started = init_status == NVML_SUCCESS;
    log_event(started ? "started" : "not started");
    return init_status;
}

nvmlReturn_t nvmlShutdown(void) {
    if (!started) {
        return NVML_ERROR_UNINITIALIZED;
    }
    started = 0;
    log_event("shut down");
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length) {
    return copy(driver, version, length);
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count) {
    *count = device_count;
    return started ? count_status : NVML_ERROR_UNINITIALIZED;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
    if (!started) {
        return NVML_ERROR_UNINITIALIZED;
    }
    if (index >= device_count) {
        return NVML_ERROR_INVALID_ARGUMENT;
    }
    *device = &devices[index];
    return devices[index].open;
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length) {
    return copy(device->name, name, length);
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length) {
    return copy(device->uuid, uuid, length);
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
    if (!started) {
        return NVML_ERROR_UNINITIALIZED;
    }
    if (device->memory == NVML_SUCCESS) {
        *memory = device->bytes;
    }
    return device->memory;
}

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor) {
    if (!started) {
        return NVML_ERROR_UNINITIALIZED;
    }
    *major = device->major;
    *minor = device->minor;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long *energy) {
    if (!started) {
        return NVML_ERROR_UNINITIALIZED;
    }
    *energy = device->millijoules;
    return device->energy;
}

nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *power) {
    if (!started) {
        return NVML_ERROR_UNINITIALIZED;
    }
    *power = device->milliwatts;
    return device->power;
}

/* Of the policies only NVML_PERF_POLICY_POWER, which is 0. */
nvmlReturn_t nvmlDeviceGetViolationStatus(nvmlDevice_t device, int policy,
                                          nvmlViolationTime_t *time) {
    if (!started) {
        return NVML_ERROR_UNINITIALIZED;
    }
    time->referenceTime = 0;
    time->violationTime = device->capped_ns;
    return policy == 0 ? device->capped : NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t device,
                                                    unsigned long long *reasons) {
    if (!started) {
        return NVML_ERROR_UNINITIALIZED;
    }
    *reasons = device->reasons;
    return device->capped;
}

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending) {
    if (device->instance_count == 0) {
        return NVML_ERROR_NOT_SUPPORTED;
    }
    *current = *pending = 1;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count) {
    (void)device;
    *count = MAX_INSTANCES;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index,
                                                 nvmlDevice_t *instance) {
    if (index >= device->instance_count) {
        return NVML_ERROR_NOT_FOUND;
    }
    *instance = &device->instances[index];
    return NVML_SUCCESS;
}
