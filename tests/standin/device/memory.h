// Memory of the stand-ins' device: memory of the host that only code which stands for the device
// may touch. Once protect_device_memory() was called, a thread of the host that reads or writes it,
// or gives it to the system or to MPI, ends the process with a message. (Not always: while another
// thread runs device code it gets away with it.) Any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace standin {

// Pages that are mapped already become device memory, and ordinary memory again. REQUIRES whole
// pages.
void add_device_pages(void* memory, size_t num_bytes);
void remove_device_pages(void* memory);

// From a reserve of 16 GiB: at a multiple of 512 bytes, every byte 0xff (NaN in all types), with
// bytes behind the end that must not change. Null when the reserve is used up. Blocks of 0 bytes
// are null.
void* allocate_device(size_t num_bytes);
// Fills it with 0xff. ENDS the process unless it was allocated, and when bytes behind its end have
// changed.
void free_device(void* memory);
struct DeviceBytes {
  int64_t held = 0, peak = 0;  // of allocate_device(), without what lies between blocks
};
DeviceBytes device_bytes();
void reset_peak_device_bytes();

// Whether all of it is device memory.
bool is_device_memory(const void* memory, size_t num_bytes);

// For the rest of the process. From now on host code that touches device memory ends it.
void protect_device_memory();
bool is_device_memory_protected();

// The calling thread stands for the device as long as the object lives. Nests.
class DeviceCode {
 public:
  DeviceCode();
  DeviceCode(const DeviceCode&) = delete;
  DeviceCode& operator=(const DeviceCode&) = delete;
  ~DeviceCode();
};

// Ends the process.
[[noreturn]] void die(const std::string& message);

}  // namespace standin
