// Package gpu asks NVIDIA's management library about this host's GPUs, in a
// process of its own: the library can take its process down (a symbol that an
// older driver lacks, a fault in its code) or hang in the kernel. Probe is that
// process (joule-gpu-probe, package driver/gpu/probe); Client starts it, asks it
// over a socketpair, one JSON object a line, and starts it again when it dies or
// stops answering. Nothing here links the library.
//
// What a GPU would not say is absent, never zero.
package gpu
