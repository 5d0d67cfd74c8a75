// A library that has nothing of NCCL but the name of its file.
extern "C" const char* vax_second_nccl() { return "second copy"; }
