// SPDX-License-Identifier: Apache-2.0
#include "softkvm/native/host_time_stamps.h"

#include <signal.h>
#include <sys/prctl.h>

#include "softkvm/translate/host_faults.h"

extern "C" int softkvm_stub_rdtsc();

namespace vireo::softkvm {

bool host_traps_time_stamps() {
  static const bool traps = [] {
    install_host_fault_handlers();
    // A signal's handler may look at the clock, which is RDTSC.
    sigset_t others, before;
    sigfillset(&others);
    sigdelset(&others, SIGSEGV);
    pthread_sigmask(SIG_SETMASK, &others, &before);
    int mode = PR_TSC_ENABLE;
    prctl(PR_GET_TSC, &mode);
    const bool asked = prctl(PR_SET_TSC, PR_TSC_SIGSEGV) == 0;
    const bool ran = softkvm_stub_rdtsc();
    prctl(PR_SET_TSC, mode);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return asked && !ran;
  }();
  return traps;
}

}  // namespace vireo::softkvm
