/* A stand-in for NVIDIA's libcuda.so.1 on the CPU: as much of the driver API as kd2edge's CUDA seam uses, with the same
 * rules, so that the real bindings can be driven through it where there is no GPU.
 *
 * Device memory is malloc'd. What is put on a stream waits until the stream, an event on it or the context is waited
 * for: who forgets to wait reads old bytes. Time is counted, not measured: a copy takes 1000 ns and 1 ns a byte, a
 * kernel what `fake_kernel` was told. A capture records; to wait or to allocate while capturing is an error that spoils
 * it. Everything made is counted until it is destroyed, and any call can be told to fail. One thread, one device.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int R;
typedef uintptr_t Ptr; /* CUdeviceptr is 64 bits wide */
enum { OK = 0, INVALID = 1, OOM = 2, NOT_INIT = 3, BAD_DEVICE = 101, NO_CONTEXT = 201, BAD_HANDLE = 400,
       NOT_FOUND = 500, NOT_READY = 600, NOT_SUPPORTED = 801, CAPTURING = 900, SPOILT = 901 };
enum { CONTEXT, DEVICE, HOST, STREAM, EVENT, GRAPH, EXEC, KINDS };

typedef struct Event { int64_t at; int done; struct Stream *on; } Event;
typedef struct Op { enum { COPY, SCALE, MARK } what; void *to; const void *from; size_t size; float by; int64_t ns;
                    Event *event; struct Op *next; } Op;
typedef struct { Op *first, **last; } Ops;
typedef struct Stream { Ops waiting, *capture; int spoilt; } Stream;
typedef struct Block { void *at; size_t size; int kind; struct Block *next; } Block;

static int live[KINDS], made, initialized, depth, sticky, fail_nth, fail_code, fail_stays, devices = 1, served = 13000;
static void *contexts[16];
static int64_t now_ns;
static size_t total = (size_t)64 << 20, used;
static char fail_name[64];
static Block *blocks;
static Stream *streams[64];

int fake_live(int kind) { return live[kind]; }
int fake_made(void) { return made; }
int fake_depth(void) { return depth; }
void fake_memory(size_t bytes) { total = bytes; }
void fake_devices(int count) { devices = count; }
void fake_driver(int version) { served = version; }
/* The nth call of that name from now on ("*": of all calls that make something) fails; if it stays, all later ones. */
void fake_fail(const char *name, int nth, int code, int stays) {
  snprintf(fail_name, sizeof fail_name, "%s", name);
  fail_nth = nth, fail_code = code, fail_stays = stays, sticky = 0, made = 0;
}

static R enter(const char *name, int makes, int needs_context) {
  if (!initialized) return NOT_INIT;
  if (sticky) return sticky;
  made += makes;
  if (fail_nth && (!strcmp(name, fail_name) || (makes && !strcmp(fail_name, "*"))) && !--fail_nth) {
    if (fail_stays) sticky = fail_code;
    return fail_code;
  }
  return needs_context && !depth ? NO_CONTEXT : OK;
}
#define ENTER(name, makes, context) do { R r_ = enter(name, makes, context); if (r_) return r_; } while (0)

static void append(Ops *ops, Op op) {
  Op *copy = malloc(sizeof op);
  *copy = op, copy->next = NULL;
  if (!ops->first) ops->last = &ops->first;
  *ops->last = copy, ops->last = &copy->next;
}
static void clear(Ops *ops) {
  for (Op *op = ops->first, *next; op; op = next) next = op->next, free(op);
  ops->first = NULL;
}
static R put(Stream *stream, Op op) {
  if (!stream) return BAD_HANDLE;
  append(stream->capture ? stream->capture : &stream->waiting, op);
  return OK;
}
static void run(Stream *stream) {
  for (Op *op = stream->waiting.first; op; op = op->next) {
    now_ns += op->ns;
    if (op->what == COPY) memcpy(op->to, op->from, op->size);
    if (op->what == SCALE)
      for (size_t i = 0; i < op->size; i++) ((float *)op->to)[i] = op->by * ((const float *)op->from)[i];
    if (op->what == MARK) op->event->at = now_ns, op->event->done = 1;
  }
  clear(&stream->waiting);
}
static R spoil(void) { /* what may not be called while this thread captures */
  R result = OK;
  for (int i = 0; i < 64; i++)
    if (streams[i] && streams[i]->capture) streams[i]->spoilt = 1, result = CAPTURING;
  return result;
}
static R take(int kind, size_t size, void **at) {
  if (!size) return INVALID;
  if (spoil()) return CAPTURING;
  if (kind == DEVICE && used + size > total) return OOM;
  Block *block = malloc(sizeof *block);
  *block = (Block){malloc(size), size, kind, blocks}, blocks = block;
  memset(block->at, 0xA5, size);
  live[kind]++, used += kind == DEVICE ? size : 0, *at = block->at;
  return OK;
}
static R give(int kind, void *at) {
  for (Block **p = &blocks; *p; p = &(*p)->next)
    if ((*p)->at == at && (*p)->kind == kind) {
      Block *gone = *p;
      *p = gone->next, live[kind]--, used -= kind == DEVICE ? gone->size : 0;
      free(gone->at), free(gone);
      return OK;
    }
  return INVALID;
}
static int inside(const void *at, size_t size, int kind) {
  for (Block *b = blocks; b; b = b->next)
    if (b->kind == kind && (char *)at >= (char *)b->at && (char *)at + size <= (char *)b->at + b->size) return 1;
  return 0;
}

R cuInit(unsigned flags) {
  (void)flags;
  initialized = 1;
  R r = enter("cuInit", 0, 0);
  return r ? r : devices ? OK : 100;
}
R cuDriverGetVersion(int *v) { *v = served; return OK; }
R cuDeviceGetCount(int *n) { *n = devices; return OK; }
R cuDeviceGet(int *d, int i) { ENTER("cuDeviceGet", 0, 0); *d = i; return i < devices ? OK : BAD_DEVICE; }
R cuDeviceGetName(char *n, int size, int d) { (void)d; snprintf(n, size, "Imaginary GPU"); return OK; }
R cuDeviceGetAttribute(int *v, int what, int d) { (void)d; *v = what == 75 ? 8 : what == 76 ? 6 : 1; return OK; }
R cuDeviceComputeCapability(int *major, int *minor, int d) { (void)d; *major = 8, *minor = 6; return OK; }

R cuCtxCreate_v2(void **c, unsigned flags, int d) {
  (void)flags, (void)d;
  ENTER("cuCtxCreate", 1, 0);
  *c = contexts[depth++] = malloc(1), live[CONTEXT]++;
  return OK;
}
R cuCtxCreate_v4(void **c, void *how, unsigned flags, int d) { (void)how; return cuCtxCreate_v2(c, flags, d); }
R cuCtxDestroy_v2(void *c) { /* works on a lost device too, of which it takes all with it */
  if (depth && contexts[depth - 1] == c) depth--;
  free(c), live[CONTEXT]--;
  for (int kind = CONTEXT + 1; sticky && kind < KINDS; kind++) live[kind] = 0;
  if (sticky) used = 0;
  return OK;
}
R cuCtxDetach(void *c) { return cuCtxDestroy_v2(c); }
R cuCtxPopCurrent_v2(void **c) { if (!depth) return NO_CONTEXT; *c = contexts[--depth]; return OK; }
R cuCtxPushCurrent_v2(void *c) { contexts[depth++] = c; return OK; }
R cuCtxGetDevice(int *d) { *d = 0; return depth ? OK : NO_CONTEXT; }
R cuCtxSynchronize(void) {
  ENTER("cuCtxSynchronize", 0, 1);
  if (spoil()) return CAPTURING;
  for (int i = 0; i < 64; i++) if (streams[i]) run(streams[i]);
  return OK;
}

R cuMemGetInfo_v2(size_t *left, size_t *all) {
  ENTER("cuMemGetInfo", 0, 1);
  *all = total, *left = total - used;
  return OK;
}
R cuMemAlloc_v2(Ptr *p, size_t size) { ENTER("cuMemAlloc", 1, 1); return take(DEVICE, size, (void **)p); }
R cuMemFree_v2(Ptr p) { ENTER("cuMemFree", 0, 1); return give(DEVICE, (void *)p); }
R cuMemHostAlloc(void **p, size_t size, unsigned f) { (void)f; ENTER("cuMemHostAlloc", 1, 1); return take(HOST, size, p); }
R cuMemFreeHost(void *p) { ENTER("cuMemFreeHost", 0, 1); return give(HOST, p); }
R cuMemcpyHtoDAsync_v2(Ptr to, const void *from, size_t size, Stream *s) {
  ENTER("cuMemcpyHtoDAsync", 0, 1);
  if (!inside((void *)to, size, DEVICE) || !inside(from, size, HOST)) return INVALID; /* pinned memory only */
  return put(s, (Op){.what = COPY, .to = (void *)to, .from = from, .size = size, .ns = 1000 + (int64_t)size});
}
R cuMemcpyDtoHAsync_v2(void *to, Ptr from, size_t size, Stream *s) {
  ENTER("cuMemcpyDtoHAsync", 0, 1);
  if (!inside((void *)from, size, DEVICE) || !inside(to, size, HOST)) return INVALID;
  return put(s, (Op){.what = COPY, .to = to, .from = (void *)from, .size = size, .ns = 1000 + (int64_t)size});
}

R cuStreamCreate(Stream **s, unsigned flags) {
  (void)flags;
  ENTER("cuStreamCreate", 1, 1);
  *s = calloc(1, sizeof **s), live[STREAM]++;
  for (int i = 0; i < 64; i++) if (!streams[i]) { streams[i] = *s; break; }
  return OK;
}
R cuStreamDestroy_v2(Stream *s) {
  ENTER("cuStreamDestroy", 0, 1);
  run(s);
  for (int i = 0; i < 64; i++) if (streams[i] == s) streams[i] = NULL;
  free(s), live[STREAM]--;
  return OK;
}
R cuStreamSynchronize(Stream *s) {
  ENTER("cuStreamSynchronize", 0, 1);
  if (s->capture) { s->spoilt = 1; return CAPTURING; }
  run(s);
  return OK;
}
R cuEventCreate(Event **e, unsigned f) { (void)f; ENTER("cuEventCreate", 1, 1); *e = calloc(1, sizeof **e), live[EVENT]++; return OK; }
R cuEventDestroy_v2(Event *e) { ENTER("cuEventDestroy", 0, 1); free(e), live[EVENT]--; return OK; }
R cuEventRecord(Event *e, Stream *s) {
  ENTER("cuEventRecord", 0, 1);
  e->done = 0, e->on = s;
  return put(s, (Op){.what = MARK, .event = e});
}
R cuEventSynchronize(Event *e) {
  ENTER("cuEventSynchronize", 0, 1);
  if (spoil()) return CAPTURING;
  if (e->on) run(e->on);
  return OK;
}
R cuEventElapsedTime_v2(float *ms, Event *a, Event *b) {
  ENTER("cuEventElapsedTime", 0, 1);
  if (!a->done || !b->done) return NOT_READY;
  *ms = (float)((double)(b->at - a->at) / 1e6);
  return OK;
}
R cuEventElapsedTime(float *ms, Event *a, Event *b) { return cuEventElapsedTime_v2(ms, a, b); }

R cuStreamBeginCapture_v2(Stream *s, int mode) {
  (void)mode;
  ENTER("cuStreamBeginCapture", 0, 1);
  if (!s || s->capture) return INVALID;
  s->capture = calloc(1, sizeof *s->capture), s->spoilt = 0;
  return OK;
}
R cuStreamEndCapture(Stream *s, Ops **graph) {
  *graph = NULL;
  if (!s->capture) return INVALID;
  Ops *taken = s->capture;
  s->capture = NULL;
  if (sticky || s->spoilt) { clear(taken), free(taken); return sticky ? sticky : SPOILT; }
  *graph = taken, live[GRAPH]++;
  return enter("cuStreamEndCapture", 0, 1);
}
R cuGraphDestroy(Ops *g) { clear(g), free(g), live[GRAPH]--; return OK; }
R cuGraphInstantiateWithFlags(Ops **x, Ops *g, unsigned long long flags) {
  (void)flags;
  ENTER("cuGraphInstantiate", 1, 1);
  *x = calloc(1, sizeof **x), live[EXEC]++;
  for (Op *op = g->first; op; op = op->next) append(*x, *op);
  return OK;
}
R cuGraphExecDestroy(Ops *x) { clear(x), free(x), live[EXEC]--; return OK; }
R cuGraphLaunch(Ops *x, Stream *s) {
  ENTER("cuGraphLaunch", 0, 1);
  for (Op *op = x->first; op; op = op->next) put(s, *op);
  return OK;
}

/* The one kernel: `to`[i] = `by` x `from`[i], in `ns`. For the tests' engines; the real driver has no such call. */
R fake_kernel(Stream *s, float *to, const float *from, size_t n, float by, int64_t ns) {
  ENTER("kernel", 0, 1);
  if (!inside(to, 4 * n, DEVICE) || !inside(from, 4 * n, DEVICE)) return INVALID;
  return put(s, (Op){.what = SCALE, .to = to, .from = from, .size = n, .by = by, .ns = ns});
}

static const struct { int code; const char *name, *says; } ERRORS[] = {
  {0, "CUDA_SUCCESS", "no error"},
  {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
  {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
  {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
  {46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"},
  {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
  {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
  {214, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"},
  {600, "CUDA_ERROR_NOT_READY", "device not ready"},
  {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
  {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
  {800, "CUDA_ERROR_NOT_PERMITTED", "operation not permitted"},
  {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
  {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
};
static R told(int code, const char **text, int name) {
  for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
    if (ERRORS[i].code == code) { *text = name ? ERRORS[i].name : ERRORS[i].says; return OK; }
  *text = NULL;
  return INVALID;
}
R cuGetErrorString(int code, const char **text) { return told(code, text, 0); }
R cuGetErrorName(int code, const char **text) { return told(code, text, 1); }

/* A name as in cuda.h and the CUDA version it is asked for, to the entry point of that version. */
R cuGetProcAddress_v2(const char *name, void **found, int version, uint64_t flags, int *status) {
  static const char *suffixes[] = {"_v4", "_v2", ""};
  char full[96];
  (void)flags;
  *found = NULL;
  if (!strcmp(name, "cuGraphInstantiate")) name = "cuGraphInstantiateWithFlags";
  for (int i = version < 13000; i < 3 && !*found; i++) {
    snprintf(full, sizeof full, "%s%s", name, suffixes[i]);
    Dl_info self;
    dladdr((void *)cuInit, &self);
    *found = dlsym(dlopen(self.dli_fname, RTLD_LAZY | RTLD_NOLOAD), full);
  }
  if (status) *status = *found ? 0 : 1;
  return *found ? OK : NOT_FOUND;
}
R cuGetProcAddress(const char *name, void **found, int version, uint64_t flags) {
  return cuGetProcAddress_v2(name, found, version, flags, NULL);
}
