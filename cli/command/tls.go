package command

import (
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/joulecloud/joule/cli/output"
)

// Certificate is a certificate that was made.
type Certificate struct {
	CertFile string    `json:"cert_file"`
	KeyFile  string    `json:"key_file"`
	NotAfter time.Time `json:"not_after"`
	DNS      []string  `json:"dns,omitempty"`
	IPs      []string  `json:"ips,omitempty"`
}

// CertificateOptions say what is to be made. Name is the authority's or the
// server's; CA and CAKey are an authority's files, for a server's.
type CertificateOptions struct {
	Dir, Name string
	CA, CAKey string
	DNS       []string
	IPs       []net.IP
	Validity  time.Duration
}

const daysMax = 36_500

func (b *builder) tls() *cli.Command {
	dir := &cli.StringFlag{Name: "dir", Value: ".", Usage: "`DIRECTORY` for the files, which are never overwritten"}
	return group("tls", "certificates of the settlement servers",
		group2("tls", "ca", "the cluster's own certificate authority",
			b.command(leaf{
				name: "create", usage: "make an authority: joule-ca.pem and joule-ca-key.pem",
				description: "Keep the key off the servers: whoever has it can join the cluster. Example: joule tls ca create",
				flags: []cli.Flag{dir,
					&cli.StringFlag{Name: "name", Value: "Joule settlement", Usage: "`NAME` of the authority"},
					&cli.StringFlag{Name: "days", Value: "3650", Usage: "`N` days that it is valid"},
				},
				run: createCA,
			})),
		group2("tls", "cert", "the servers' certificates",
			b.command(leaf{
				name: "create", usage: "make a server's certificate: SERVER.pem and SERVER-key.pem", args: []string{"SERVER"},
				description: "It serves the API under the names and addresses given, and Raft among the servers. " +
					"Example: joule tls cert create s1 --dns s1.example --ip 10.0.0.1",
				flags: []cli.Flag{dir,
					&cli.StringFlag{Name: "ca", Value: "joule-ca.pem", Usage: "the authority's `FILE`"},
					&cli.StringFlag{Name: "ca-key", Value: "joule-ca-key.pem", Usage: "the authority's key `FILE`, mode 0600"},
					&cli.StringSliceFlag{Name: "dns", Usage: "host `NAME` at which clients reach the server; may be repeated"},
					&cli.StringSliceFlag{Name: "ip", Usage: "IP `ADDRESS` at which clients reach the server; may be repeated"},
					&cli.StringFlag{Name: "days", Value: "365", Usage: "`N` days that it is valid"},
				},
				run: createCert,
			})))
}

// group2 is group for the second level.
func group2(parent, name, usage string, commands ...*cli.Command) *cli.Command {
	g := group(name, usage, commands...)
	g.Action = func(c *cli.Context) error {
		if c.Args().Present() {
			return unknownCommand(c.Args().First(), "joule "+parent+" "+name, commands)
		}
		names := make([]string, len(commands))
		for i, sub := range commands {
			names[i] = sub.Name
		}
		return invalid(fmt.Sprintf("joule %s %s --help", parent, name), "%s %s: needs one of the commands %s", parent, name, strings.Join(names, ", "))
	}
	return g
}

func (in *invocation) validity() (time.Duration, error) {
	days, err := parseUint("--days", in.c.String("days"), 1, daysMax)
	return time.Duration(days) * 24 * time.Hour, err
}

func createCA(in *invocation) error {
	validity, err := in.validity()
	if err != nil {
		return err
	}
	name, err := in.required("name")
	if err != nil {
		return err
	}
	made, err := in.deps.CreateCA(CertificateOptions{Dir: in.c.String("dir"), Name: name, Validity: validity})
	if err != nil {
		return Invalid(err)
	}
	return in.made("authority", made)
}

func createCert(in *invocation) error {
	validity, err := in.validity()
	if err != nil {
		return err
	}
	o := CertificateOptions{Dir: in.c.String("dir"), Name: in.arg(0), Validity: validity, DNS: in.c.StringSlice("dns")}
	for i, text := range in.c.StringSlice("ip") {
		ip := net.ParseIP(text)
		if ip == nil {
			return invalid("", "--ip: value %d is no IP address (got %q)", i+1, short(text))
		}
		o.IPs = append(o.IPs, ip)
	}
	if o.CA, err = in.required("ca"); err != nil {
		return err
	}
	if o.CAKey, err = in.required("ca-key"); err != nil {
		return err
	}
	made, err := in.deps.CreateCert(o)
	if err != nil {
		return Invalid(err)
	}
	return in.made("certificate", made)
}

func (in *invocation) made(what string, c *Certificate) error {
	return in.value(c, func(w io.Writer) error {
		var f output.Fields
		f.Add(what, "%s", c.CertFile)
		f.Add("key", "%s (mode 0600)", c.KeyFile)
		f.Add("valid until", "%s", c.NotAfter.UTC().Format(time.DateOnly))
		if len(c.DNS)+len(c.IPs) > 0 {
			f.Add("names", "%s", strings.Join(append(append([]string{}, c.DNS...), c.IPs...), ", "))
		}
		return f.Write(w)
	})
}
