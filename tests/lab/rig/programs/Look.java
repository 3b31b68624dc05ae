/* Prints names' addresses, two lines for each name.  Runs in a container.
 *
 * The first line is InetAddress's, which asks the C library.  The second is that of JNDI's DNS
 * provider, which speaks DNS by itself.
 *
 *     java Look.java NAME...
 */
import java.net.InetAddress;
import java.util.Hashtable;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import javax.naming.Context;
import javax.naming.directory.InitialDirContext;

public class Look {
    public static void main(String[] names) throws Exception {
        Hashtable<String, String> settings = new Hashtable<>();
        settings.put(Context.INITIAL_CONTEXT_FACTORY, "com.sun.jndi.dns.DnsContextFactory");
        settings.put(Context.PROVIDER_URL, "dns:");         // the servers of /etc/resolv.conf
        InitialDirContext dns = new InitialDirContext(settings);
        for (String name : names) {
            System.out.println(Stream.of(InetAddress.getAllByName(name))
                .map(InetAddress::getHostAddress).sorted().collect(Collectors.joining(" ")));
            System.out.println(dns.getAttributes(name, new String[] {"A"}).get("A").get());
        }
    }
}
