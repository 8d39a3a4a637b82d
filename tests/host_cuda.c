/* CUDA's driver with the CPU's memory in place of a GPU's; see host_cuda.py. */
#include <stdlib.h>
#include <string.h>
typedef unsigned long long CUdeviceptr;
typedef int CUdevice;
typedef void *CUcontext, *CUstream, *CUevent, *CUgraph, *CUgraphExec;
static int context, graphs;
static __thread CUcontext current;
long allocations, streams, events, graphs_alive, capturing, launched, bytes, waits;

int cuInit(unsigned flags) { return flags ? 1 : 0; }
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuGetErrorString(int code, const char **text) {
  *text = code == 201 ? "invalid device context" : "some error"; return 0; }
int cuDeviceGet(CUdevice *device, int ordinal) { *device = 7; return ordinal ? 101 : 0; }
int cuDevicePrimaryCtxRetain(CUcontext *out, CUdevice d) { *out = &context; return d == 7 ? 0 : 101; }
int cuDevicePrimaryCtxRelease_v2(CUdevice d) { return d == 7 ? 0 : 101; }
int cuCtxSetCurrent(CUcontext c) { current = c; return c == &context ? 0 : 201; }
#define NEED if (current != &context) return 201
int cuDeviceGetName(char *name, int length, CUdevice d) {
  strncpy(name, "host", length); return d == 7 ? 0 : 101; }
int cuDeviceTotalMem_v2(size_t *size, CUdevice d) { *size = 6ULL << 30; return d == 7 ? 0 : 101; }
int cuDeviceGetAttribute(int *value, int which, CUdevice d) {
  *value = which == 75 ? 8 : which == 76 ? 7 : -1; return d == 7 ? 0 : 101; }
int cuMemGetInfo_v2(size_t *free, size_t *total) { NEED; *free = 5ULL << 30; *total = 6ULL << 30; return 0; }
int cuMemAlloc_v2(CUdeviceptr *out, size_t size) {
  NEED; if (!size) return 1; size = (size + 511) / 512 * 512;
  *out = (CUdeviceptr)aligned_alloc(512, size); __sync_fetch_and_add(&allocations, 1);
  return *out ? 0 : 2; }
int cuMemFree_v2(CUdeviceptr p) { NEED; free((void *)p); __sync_fetch_and_sub(&allocations, 1); return 0; }
int cuStreamCreate(CUstream *out, unsigned flags) {
  NEED; *out = malloc(8); __sync_fetch_and_add(&streams, 1); return flags == 1 ? 0 : 1; }
int cuStreamDestroy_v2(CUstream s) { NEED; free(s); __sync_fetch_and_sub(&streams, 1); return 0; }
int cuStreamSynchronize(CUstream s) { NEED; __sync_fetch_and_add(&waits, 1); return s ? 0 : 400; }
static int move(void *to, const void *from, size_t size, CUstream s) {
  NEED; if (!s) return 400; memmove(to, from, size); bytes += size; return 0; }
int cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t size, CUstream s) {
  return move((void *)to, from, size, s); }
int cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t size, CUstream s) {
  return move(to, (void *)from, size, s); }
int cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream s) {
  return move((void *)to, (void *)from, size, s); }
int cuEventCreate(CUevent *out, unsigned flags) { NEED; *out = malloc(8); events++; return flags; }
int cuEventDestroy_v2(CUevent e) { NEED; free(e); events--; return 0; }
int cuEventRecord(CUevent e, CUstream s) { NEED; return e && s ? 0 : 400; }
int cuEventSynchronize(CUevent e) { NEED; return e ? 0 : 400; }
int cuEventElapsedTime(float *ms, CUevent a, CUevent b) { NEED; *ms = 1.5f; return a && b ? 0 : 400; }
int cuStreamWaitEvent(CUstream s, CUevent e, unsigned flags) { NEED; return s && e && !flags ? 0 : 400; }
int cuStreamBeginCapture_v2(CUstream s, int mode) {
  NEED; capturing = 1; return s && mode == 2 ? 0 : 400; }
int cuStreamEndCapture(CUstream s, CUgraph *out) {
  NEED; if (!capturing) return 901; capturing = 0; *out = &graphs; graphs_alive++; return s ? 0 : 400; }
int cuGraphInstantiateWithFlags(CUgraphExec *out, CUgraph g, unsigned long long flags) {
  NEED; *out = malloc(8); return g == &graphs && !flags ? 0 : 400; }
int cuGraphDestroy(CUgraph g) { NEED; graphs_alive--; return g == &graphs ? 0 : 400; }
int cuGraphLaunch(CUgraphExec g, CUstream s) { NEED; launched++; return g && s ? 0 : 400; }
int cuGraphExecDestroy(CUgraphExec g) { NEED; free(g); return 0; }
