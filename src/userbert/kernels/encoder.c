/* Whether this machine's processor has what the kernels need. */
#include "gemm.h"
#include "parallel.h"

int userbert_can_run(void)
{
    return cpu_can_run();
}
