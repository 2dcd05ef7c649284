"""A report of many pictures: one page of HTML and a table.

- answers: the service's answers, kept in a file so that an interrupted run goes on
- measures: what is computed of them, for each picture, class and gate; outliers: the pictures that stand out
- clusters: the maps of a class in groups, by scikit-learn
- page, page.html: the page; table: the CSV
"""
