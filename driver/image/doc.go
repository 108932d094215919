// Package image brings container images to a host: it pulls them from registries
// or reads them from files, unpacks every layer once into a cache, and makes a
// root file system of them for each task.
//
// The cache is content-addressed. A layer lies under the digest of its unpacked
// tar (its diff id), so images share layers however they were compressed; an
// image lies under the digest of its manifest. Nothing appears under its final
// name before it is whole and on disk: it is made in tmp/, synced and renamed.
// A crash leaves only what Open sweeps, and partial downloads, which resume.
//
//	<dir>/lock                 held by the one process that uses the cache
//	<dir>/partial/<hex>        a layer as it comes from the registry
//	<dir>/layers/<hex>/fs/     an unpacked layer in overlayfs's own form
//	<dir>/layers/<hex>/layer.json
//	<dir>/images/<hex>.json    an image: its layers and configuration
//	<dir>/roots/<id>/          a task's root: which layers, its upper directory
//	<dir>/tmp/                 what is being made or removed
//
// Images come from strangers, and so may the registry's answers: every byte is
// checked against the digest that named it, unpacking cannot leave the layer's
// directory, and what it may cost in bytes and files is bounded.
package image
