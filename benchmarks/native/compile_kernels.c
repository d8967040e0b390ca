/* Compiles each OpenCL file for the only device there is, so that Mesa's driver prints what became of it.
 *
 * compile_kernels FILE.cl...
 *
 * A line "### FILE" comes before what the driver prints of a file's kernels. It runs under qemu with Mesa's drm-shim,
 * which stands in for a kernel driver; see mesa.py.
 */

#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* The shim has no sync files, without which panfrost aborts. Nothing is ever submitted, so nothing has to be waited
 * for: these take the place of libdrm's functions. */
int drmSyncobjExportSyncFile(int fd, uint32_t handle, int *file) {
    *file = open("/dev/null", O_RDWR);
    return *file < 0;
}

int drmSyncobjImportSyncFile(int fd, uint32_t handle, int file) { return 0; }

static void check(cl_int status, const char *what) {
    if (status != CL_SUCCESS) {
        printf("!!! %s: OpenCL error %d\n", what, status);
        exit(1);
    }
}

static char *read_file(const char *path) {
    FILE *file = fopen(path, "rb");
    char *text = calloc(1, 1 << 24);
    check(file && text ? CL_SUCCESS : CL_INVALID_VALUE, path);
    fread(text, 1, (1 << 24) - 1, file);
    fclose(file);
    return text;
}

static void compile(cl_context context, cl_device_id device, const char *path) {
    char *source = read_file(path);
    cl_int status;
    cl_program program = clCreateProgramWithSource(context, 1, (const char **)&source, NULL, &status);
    check(status, path);
    printf("### %s\n", path);
    if (clBuildProgram(program, 1, &device, "", NULL, NULL) != CL_SUCCESS) {
        char log[1 << 16] = "";
        clGetProgramBuildInfo(program, device, CL_PROGRAM_BUILD_LOG, sizeof log, log, NULL);
        printf("!!! %s\n", log);
        return;
    }
    cl_kernel kernels[64];
    cl_uint count;
    check(clCreateKernelsInProgram(program, 64, kernels, &count), path);
    for (cl_uint i = 0; i < count; ++i) {
        /* Waits for the driver's compiler. */
        cl_ulong bytes;
        check(clGetKernelWorkGroupInfo(kernels[i], device, CL_KERNEL_PRIVATE_MEM_SIZE, sizeof bytes, &bytes, NULL), path);
        clReleaseKernel(kernels[i]);
    }
    clReleaseProgram(program);
    free(source);
}

int main(int count, char **paths) {
    cl_uint platforms;
    cl_platform_id platform;
    cl_device_id device;
    cl_int status;
    char name[256];
    /* Mesa prints its own words to either stream. */
    setvbuf(stdout, NULL, _IOLBF, 0);
    dup2(STDOUT_FILENO, STDERR_FILENO);
    check(clGetPlatformIDs(1, &platform, &platforms), "platform");
    check(clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, NULL), "device");
    check(clGetDeviceInfo(device, CL_DEVICE_NAME, sizeof name, name, NULL), "name");
    cl_context context = clCreateContext(NULL, 1, &device, NULL, NULL, &status);
    check(status, name);
    for (int i = 1; i < count; ++i)
        compile(context, device, paths[i]);
    return 0;
}
