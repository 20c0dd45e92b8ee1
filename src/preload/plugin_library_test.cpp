// SPDX-License-Identifier: Apache-2.0
// In place of libaio and liburing, for plugin_test.cpp.
struct iocb;
struct io_uring;
#ifdef OF_AIO
extern "C" int io_submit(unsigned long, long, iocb**) { return 4711; }
#else
extern "C" int io_uring_submit(io_uring*) { return 4711; }
#endif
