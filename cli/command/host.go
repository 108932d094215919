package command

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/joulecloud/joule/cli/output"
	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
	"github.com/joulecloud/joule/settlement/money"
)

// keyFileBytesMax bounds what is read of a file that should hold one key.
const keyFileBytesMax = 4096

func (b *builder) host() *cli.Command {
	cmds := []*cli.Command{
		b.command(leaf{
			name: "enroll", usage: "give a supplier a host", args: []string{"NAME"}, changing: true,
			description: "Example: joule host enroll dc-1 --supplier west-dc --class datacenter --public-key @dc-1.pub",
			flags: []cli.Flag{
				&cli.StringFlag{Name: "supplier", Usage: "`NAME` of the supplier who owns it (required)"},
				&cli.StringFlag{Name: "class", Usage: "`CLASS` of the host: crowd or datacenter (required)"},
				&cli.StringFlag{Name: "public-key", Usage: "the host's Ed25519 public `KEY` in hex or base64, or @FILE with it; joule host key prints it (required)"},
			},
			notFound: "`joule supplier list` lists the suppliers; joule supplier create NAME makes one",
			run:      enrollHost,
		}),
		b.command(leaf{
			name: "retire", usage: "take a host out of service for good", args: []string{"NAME"}, changing: true,
			description: "It gets no more leases; those that it has go on to their ends, and then no stake is asked for it. Its name stays taken. " +
				"Example: joule host retire dc-1 --yes",
			flags: []cli.Flag{yesFlag("really retire it (required)")}, notFound: hintHosts, run: retireHost,
		}),
		b.command(leaf{name: "list", usage: "list hosts, their offers and when they were last heard", run: listHosts}),
	}
	if b.deps.PublicKey != nil {
		cmds = append(cmds, b.command(leaf{
			name: "key", usage: "print this host's public key, making the key where there is none",
			description: "Example: joule host key --config /etc/joule/hostd.hcl",
			flags:       []cli.Flag{&cli.StringFlag{Name: "config", Usage: "`FILE` that configures the host's daemon (required)"}},
			run:         hostKey,
		}))
	}
	return group("host", "suppliers' machines", cmds...)
}

func enrollHost(in *invocation) error {
	supplier, err := in.required("supplier")
	if err != nil {
		return err
	}
	class, err := in.required("class")
	if err != nil {
		return err
	}
	if class != "crowd" && class != "datacenter" {
		return invalid("", "--class: must be crowd or datacenter (got %q)", short(class))
	}
	text, err := in.required("public-key")
	if err != nil {
		return err
	}
	key, err := publicKey(text)
	if err != nil {
		return err
	}
	resp, err := call(in, Client.EnrollHost, &joulev1.EnrollHostRequest{
		Key: in.idempotencyKey(), Name: in.arg(0), Supplier: supplier, Class: class, PublicKey: key})
	if err != nil {
		return err
	}
	return in.done(resp, 0, "host %s enrolled: id %d, class %s, supplier %s", in.arg(0), resp.GetHostId(), class, supplier)
}

func retireHost(in *invocation) error {
	if err := in.confirmed("retiring host %s", in.arg(0)); err != nil {
		return err
	}
	resp, err := call(in, Client.RetireHost, &joulev1.RetireHostRequest{Key: in.idempotencyKey(), Host: in.arg(0)})
	if err != nil {
		return err
	}
	return in.done(resp, 0, "host %s retired: %s to end; stake %s, required %s", in.arg(0), count(uint64(resp.GetOpenLeases()), "open lease"),
		amount(joule, resp.GetStake().GetBondedNj()), amount(joule, resp.GetStake().GetRequiredNj()))
}

// publicKey reads an Ed25519 public key in hex or base64, or from @file.
func publicKey(text string) ([]byte, error) {
	source := text
	if path, found := strings.CutPrefix(text, "@"); found {
		raw, err := readSmall(path)
		if err != nil {
			return nil, Invalid(fmt.Errorf("--public-key: %w", err))
		}
		source = strings.TrimSpace(string(raw))
	}
	if key, err := hex.DecodeString(source); err == nil && len(key) == ed25519.PublicKeySize {
		return key, nil
	}
	unpadded := strings.TrimRight(source, "=")
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if key, err := enc.DecodeString(unpadded); err == nil && len(key) == ed25519.PublicKeySize {
			return key, nil
		}
	}
	return nil, invalid("joule host key --config FILE prints a host's public key",
		"--public-key: must be 32 bytes in hex or base64, or @FILE with them (got %q)", short(text))
}

func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, keyFileBytesMax))
}

// keyShown is the JSON of host key.
type keyShown struct {
	PublicKey string `json:"public_key"` // hex
}

func hostKey(in *invocation) error {
	config, err := in.required("config")
	if err != nil {
		return err
	}
	key, err := in.deps.PublicKey(config)
	if err != nil {
		return err
	}
	text := hex.EncodeToString(key)
	return in.value(keyShown{text}, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, text)
		return err
	})
}

func listHosts(in *invocation) error {
	resp, err := call(in, Client.ListHosts, &joulev1.ListHostsRequest{})
	if err != nil {
		return err
	}
	return in.result(resp, 0, func(w io.Writer) error {
		t := output.NewTable(output.Column{Title: "HOST"}, output.Column{Title: "SUPPLIER"}, output.Column{Title: "CLASS"},
			output.Column{Title: "SESSION"}, output.Column{Title: "LAST HEARD"},
			output.Column{Title: "OPEN LEASES", Align: output.Right}, output.Column{Title: "OFFER USD/H"})
		for _, h := range resp.GetHosts() {
			session, offer := "no", "none"
			if h.GetConnected() {
				session = "yes"
			}
			switch {
			case h.GetRetired():
				offer = "retired"
			case h.GetOffer() != nil:
				offer = prices(h.GetOffer())
			}
			t.Row(h.GetName(), h.GetSupplier(), h.GetClass(), session, moment(h.GetLastHeardMs()),
				fmt.Sprint(h.GetOpenLeases()), offer)
		}
		return t.Write(w)
	})
}

func (b *builder) offer() *cli.Command {
	var flags []cli.Flag
	for _, d := range dimensions(nil) {
		flags = append(flags, &cli.StringFlag{Name: d.name, Usage: "`USD` per hour and " + d.per})
	}
	return group("offer", "what a host asks",
		b.command(leaf{
			name: "set", usage: "set the prices of a host's future leases", args: []string{"HOST"}, changing: true,
			description: "A price that isn't given stays as it is; in a host's first offer it is 0, free. Example: joule offer set dc-1 --base 0.01 --cpu 0.04 --gpu 2.50 --memory 0.005",
			flags:       flags, notFound: hintHosts, run: setOffer,
		}))
}

func setOffer(in *invocation) error {
	set := &joulev1.Prices{}
	given := 0
	for _, d := range dimensions(nil) {
		if !in.c.IsSet(d.name) {
			continue
		}
		given++
		n, err := money.Parse(money.USD, "--"+d.name, in.c.String(d.name))
		if err != nil {
			return err
		}
		setPrice(set, d.name, n)
	}
	all := dimensions(set)
	switch {
	case given == 0:
		return invalid("joule offer set --help", "offer set: needs a price: --base, --cpu, --gpu or --memory")
	case given < len(all):
		old, err := offerOf(in, in.arg(0))
		if err != nil {
			return err
		}
		for _, d := range dimensions(old) {
			if !in.c.IsSet(d.name) {
				setPrice(set, d.name, d.nusd)
			}
		}
	}
	resp, err := call(in, Client.SetOffer, &joulev1.SetOfferRequest{Key: in.idempotencyKey(), Host: in.arg(0), Prices: set})
	if err != nil {
		return err
	}
	var parts []string
	for _, d := range dimensions(set) {
		parts = append(parts, d.name+" "+usdNumber(d.nusd))
	}
	return in.done(resp, 0, "offer of %s set: %s (USD per hour)", in.arg(0), strings.Join(parts, ", "))
}

// offerOf is a host's offer, nil where it has none yet.
func offerOf(in *invocation, host string) (*joulev1.Prices, error) {
	resp, err := call(in, Client.ListHosts, &joulev1.ListHostsRequest{})
	if err != nil {
		return nil, err
	}
	for _, h := range resp.GetHosts() {
		if h.GetName() == host {
			return h.GetOffer(), nil
		}
	}
	return nil, failed(exitNotFound, hintHosts, "no host %q", host)
}

func setPrice(p *joulev1.Prices, dimension string, nusd int64) {
	switch dimension {
	case "base":
		p.BaseNusdPerHour = nusd
	case "cpu":
		p.CpuNusdPerHour = nusd
	case "gpu":
		p.GpuNusdPerHour = nusd
	case "memory":
		p.MemoryNusdPerHour = nusd
	}
}
