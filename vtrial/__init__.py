"""vtrial: from tumour volumes of mice to the response rate of patients."""
